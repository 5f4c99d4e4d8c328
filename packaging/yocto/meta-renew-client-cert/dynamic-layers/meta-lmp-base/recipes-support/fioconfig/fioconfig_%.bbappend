# One package owns the path that fioconfig calls. The stock handler stays beside it, for who wants to go back.
# For every machine and distribution: whoever adds both layers wants this, and without it two packages own the path.
# nooelint: oelint.vars.noncoreoverride
do_install:append() {
    mv ${D}${datadir}/fioconfig/handlers/renew-client-cert ${D}${datadir}/fioconfig/handlers/renew-client-cert.fioconfig
}

# nooelint: oelint.vars.noncoreoverride
RRECOMMENDS:${PN} += "renew-client-cert"
