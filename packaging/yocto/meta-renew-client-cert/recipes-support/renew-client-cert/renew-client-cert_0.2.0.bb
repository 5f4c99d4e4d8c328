# nooelint: oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER,oelint.var.bbclassextend
# Those three: it has no home page, and is for the device only.
SUMMARY = "Rotates the TLS client certificate of a FoundriesFactory device"
DESCRIPTION = "The handler that fioconfig calls when fio-rotate-certs changes, and a daemon for interrupted rotations"
SECTION = "admin"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"
CVE_PRODUCT = "renew-client-cert"

# The checkout that contains this layer, unless a bbappend sets SRC_URI, SRCREV and S.
SRC_URI = ""

inherit python_setuptools_build_meta systemd externalsrc

EXTERNALSRC = "${@'' if d.getVar('SRC_URI') else os.path.normpath(d.getVar('THISDIR') + '/../../../../..')}"
EXTERNALSRC_BUILD = "${B}"
# nooelint: oelint.vars.mispell.unknown
EXTERNALSRC_SYMLINKS = ""

# Built from a copy: writes nothing into the checkout, and packages no stray file of it.
B = "${WORKDIR}/build"
PEP517_SOURCE_PATH = "${B}"
do_configure[cleandirs] += "${B}"
do_configure() {
    cp -R ${S}/pyproject.toml ${S}/README.md ${S}/LICENSE ${S}/handler ${S}/hsm ${B}
}

# A private folder, invisible to other Python programs. All files of an OSTree deployment have the time 0, so byte code
# is never checked: not by time, and not by content, which would cost time at every start.
PRIVATE_DIR = "${nonarch_libdir}/renew-client-cert"
INSTALL_WHEEL_COMPILE_BYTECODE = "--no-compile-bytecode"
do_install:append() {
    install -d ${D}${PRIVATE_DIR}
    mv ${D}${PYTHON_SITEPACKAGES_DIR}/handler ${D}${PYTHON_SITEPACKAGES_DIR}/hsm ${D}${PRIVATE_DIR}
    rm -r ${D}${PYTHON_SITEPACKAGES_DIR} ${D}${bindir}
    rmdir -p --ignore-fail-on-non-empty ${D}${libdir}/${PYTHON_DIR}
    nativepython3 -m compileall -q --invalidation-mode unchecked-hash -s ${D} -p / ${D}${PRIVATE_DIR}
    DESTDIR=${D} PREFIX=${prefix} TARGET_PYTHON=${bindir}/python3 LIBRARY=${PRIVATE_DIR} SITE_PACKAGES=${PYTHON_SITEPACKAGES_DIR} \
        UNITS=${systemd_unitdir} UDEV=${nonarch_base_libdir}/udev ${S}/packaging/files.sh
    printf 'enable renew-client-cert-if-due.timer\n' >${D}${systemd_unitdir}/system-preset/79-renew-client-cert-timer.preset
}

# The daily check, for fleets in which no server requests rotations; the remote actions of fioctl.
PACKAGES =+ "${PN}-timer ${PN}-actions"
FILES:${PN} += "\
    ${PRIVATE_DIR} \
    ${datadir}/fioconfig/handlers \
    ${nonarch_base_libdir}/udev/rules.d \
    ${systemd_unitdir}/system-preset/80-renew-client-cert.preset \
"
FILES:${PN}-timer += "${systemd_unitdir}/system-preset/79-renew-client-cert-timer.preset"
FILES:${PN}-actions += "${datadir}/fioconfig/actions"

SYSTEMD_PACKAGES = "${PN} ${PN}-timer"
SYSTEMD_SERVICE:${PN} = "renew-client-cert.path renew-client-cert.service renew-client-cert-offline.service"
SYSTEMD_SERVICE:${PN}-timer = "renew-client-cert-if-due.timer renew-client-cert-if-due.service"
# Use the installed presets; otherwise the class writes its own.
SYSTEMD_AUTO_ENABLE = "preset"

# What the program imports: tests/unit/packaging/test_layer.py compares.
RDEPENDS:${PN} += "\
    python3-core \
    python3-crypt \
    python3-cryptography \
    python3-ctypes \
    python3-datetime \
    python3-email \
    python3-fcntl \
    python3-io \
    python3-json \
    python3-logging \
    python3-math \
    python3-netclient \
    python3-pkcs11 \
    python3-pyudev \
    python3-requests \
    python3-resource \
    python3-tomllib \
    python3-urllib3 \
"
RDEPENDS:${PN}-timer += "${PN}"
RDEPENDS:${PN}-actions += "${PN}"
