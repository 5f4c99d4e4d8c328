# nooelint: oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER,oelint.var.bbclassextend
# Those three: it has no page of its own, and is for the device alone.
SUMMARY = "Rotates the TLS client certificate of a FoundriesFactory device"
DESCRIPTION = "The handler that fioconfig calls when fio-rotate-certs changes, and the daemon that finishes what was cut off"
SECTION = "admin"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"
CVE_PRODUCT = "renew-client-cert"

# The checkout in which this layer lies, unless a bbappend names another place: SRC_URI, SRCREV and S.
SRC_URI = ""

inherit python_setuptools_build_meta systemd externalsrc

EXTERNALSRC = "${@'' if d.getVar('SRC_URI') else os.path.normpath(d.getVar('THISDIR') + '/../../../../..')}"
EXTERNALSRC_BUILD = "${B}"
# nooelint: oelint.vars.mispell.unknown
EXTERNALSRC_SYMLINKS = ""

# Built from a copy: nothing is written into the checkout, and nothing that lies there unasked gets into the package.
B = "${WORKDIR}/build"
PEP517_SOURCE_PATH = "${B}"
do_configure[cleandirs] += "${B}"
do_configure() {
    cp -R ${S}/pyproject.toml ${S}/README.md ${S}/LICENSE ${S}/handler ${S}/hsm ${B}
}

# Where no other Python program sees it. All files of an OSTree deployment have the time 0, so byte code is checked
# neither by time nor, at every start, by content.
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

# The daily look, for fleets in which no server asks for rotations; what operators call through fioctl.
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
# By the presets that are installed; else the class writes presets of its own.
SYSTEMD_AUTO_ENABLE = "preset"

# What the program imports; a test compares.
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
