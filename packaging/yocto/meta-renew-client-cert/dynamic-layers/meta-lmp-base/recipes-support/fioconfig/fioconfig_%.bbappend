# One package owns the path that fioconfig calls. The stock handler is kept under another name, to go back to.
# For every machine and distribution: with both layers, two packages would own the path otherwise.
# nooelint: oelint.vars.noncoreoverride
do_install:append() {
    mv ${D}${datadir}/fioconfig/handlers/renew-client-cert ${D}${datadir}/fioconfig/handlers/renew-client-cert.fioconfig
}

# nooelint: oelint.vars.noncoreoverride
RRECOMMENDS:${PN} += "renew-client-cert"
