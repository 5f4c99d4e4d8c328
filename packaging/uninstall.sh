#!/bin/sh
# Removes what `make install` installed and restores the stock handler. Keeps everything below /var/sota.
set -eu
: "${DESTDIR=}" "${PREFIX=/usr}"
cd "$(dirname "$0")/.."
handler=$DESTDIR$PREFIX/share/fioconfig/handlers/renew-client-cert
if [ -z "$DESTDIR" ]; then
    . packaging/deactivate.sh
fi
library=$DESTDIR$PREFIX/lib/renew-client-cert
if [ -d "$library" ]; then  # others' hooks stay
    find "$library" -mindepth 1 -maxdepth 1 ! -name hooks.d -exec rm -rf {} +
    rmdir --ignore-fail-on-non-empty "$library"
fi
rm -rf "$DESTDIR$PREFIX/share/doc/renew-client-cert"
rm -f "$handler" "$DESTDIR$PREFIX/sbin/renew-client-cert" \
    "$DESTDIR$PREFIX"/share/fioconfig/actions/cert-status "$DESTDIR$PREFIX"/share/fioconfig/actions/cert-check \
    "$DESTDIR$PREFIX"/share/fioconfig/actions/cert-log "$DESTDIR$PREFIX"/share/fioconfig/actions/cert-dry-run \
    "$DESTDIR$PREFIX"/share/fioconfig/actions/cert-abort \
    "$DESTDIR"/etc/systemd/system/*.wants/renew-client-cert* \
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
    udevadm control --reload || true
fi
