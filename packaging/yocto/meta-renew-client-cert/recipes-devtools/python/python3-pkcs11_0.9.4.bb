SUMMARY = "PKCS#11 (Cryptoki) support for Python"
DESCRIPTION = "An interface to PKCS#11 tokens in terms of Python. meta-python has 0.7.0, which lacks pkcs11.attributes."
# nooelint: oelint.vars.homepageping - there is no network where it is checked
HOMEPAGE = "https://pypi.org/project/python-pkcs11/"
BUGTRACKER = "https://github.com/pyauth/python-pkcs11/issues"
SECTION = "devel/python"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=f68bda54505b4002e6ec86e08125ef79"
CVE_PRODUCT = "python-pkcs11"

DEPENDS += "python3-cython-native python3-setuptools-scm-native"

SRC_URI[sha256sum] = "3d950aadefa473b880dc75f01539133487e65ec2a97db1e955c4f6bef1bd71d5"

PYPI_PACKAGE = "python_pkcs11"

inherit pypi python_setuptools_build_meta

# It requires setuptools 80.8. scarthgap has 69.1, which needs the licence and the extension in the old notation.
do_configure:prepend() {
    sed -i -e 's/^requires = .*/requires = ["setuptools", "cython", "setuptools-scm"]/' \
        -e 's/^license = "MIT"/license = {text = "MIT"}/' \
        -e '/^ext-modules = \[/,/^\]/d' ${S}/pyproject.toml
    printf '%s\n' 'from setuptools import Extension, setup' \
        'setup(ext_modules=[Extension("pkcs11._pkcs11", ["pkcs11/_pkcs11.pyx"])])' >${S}/setup.py
}

# Cython's sources of the compiled module.
do_install:append() {
    rm -f ${D}${PYTHON_SITEPACKAGES_DIR}/pkcs11/*.pyx ${D}${PYTHON_SITEPACKAGES_DIR}/pkcs11/*.pxd
}

RDEPENDS:${PN} += "python3-asn1crypto python3-core python3-threading"

BBCLASSEXTEND = "native nativesdk"
