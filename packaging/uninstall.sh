#!/bin/sh
# Takes away what `make install` brought, and puts the stock handler back. State below /var/sota stays.
set -eu
: "${DESTDIR=}" "${PREFIX=/usr}"
handler=$DESTDIR$PREFIX/share/fioconfig/handlers/renew-client-cert
if [ -d /run/systemd/system ] && [ -z "$DESTDIR" ]; then
    systemctl disable --now renew-client-cert.path renew-client-cert-offline.service renew-client-cert-if-due.timer || true
    systemctl stop renew-client-cert.service || true
fi
rm -rf "$DESTDIR$PREFIX/lib/renew-client-cert"
rm -f "$handler" "$DESTDIR$PREFIX/sbin/renew-client-cert" \
    "$DESTDIR$PREFIX"/lib/systemd/system/renew-client-cert.* "$DESTDIR$PREFIX"/lib/systemd/system/renew-client-cert-*.* \
    "$DESTDIR$PREFIX/lib/systemd/system-preset/80-renew-client-cert.preset" \
    "$DESTDIR$PREFIX/lib/udev/rules.d/80-renew-client-cert.rules" \
    "$DESTDIR$PREFIX/share/man/man8/renew-client-cert.8.gz" \
    "$DESTDIR$PREFIX/share/bash-completion/completions/renew-client-cert"
if [ -e "$handler.fioconfig" ]; then
    mv "$handler.fioconfig" "$handler"
fi
if [ -d /run/systemd/system ] && [ -z "$DESTDIR" ]; then
    systemctl daemon-reload
fi
