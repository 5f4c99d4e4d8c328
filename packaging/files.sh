#!/bin/sh
# For install.sh and the Yocto recipe: installs what needs no build below DESTDIR: launcher, units, documents.
# Paths without DESTDIR: UNITS and UDEV, where systemd and udev look; LIBRARY, the program; SITE_PACKAGES, libraries of
# the image.
set -eu
umask 022
: "${DESTDIR=}" "${PREFIX=/usr}" "${TARGET_PYTHON=/usr/bin/python3}" "${SITE_PACKAGES=}"
: "${UNITS=$PREFIX/lib/systemd}" "${UDEV=$PREFIX/lib/udev}" "${LIBRARY=$PREFIX/lib/renew-client-cert}"
cd "$(dirname "$0")/.."
doc=$DESTDIR$PREFIX/share/doc/renew-client-cert
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sed -e "s|@PYTHON@|$TARGET_PYTHON|" -e "s|@LIBRARY@|$LIBRARY${SITE_PACKAGES:+:$SITE_PACKAGES}|" packaging/launcher.py.in >"$work/launcher"
install -D -m 755 "$work/launcher" "$DESTDIR$PREFIX/share/fioconfig/handlers/renew-client-cert"
install -D -m 755 "$work/launcher" "$DESTDIR$PREFIX/sbin/renew-client-cert"
for unit in systemd/*.service systemd/*.path systemd/*.timer; do
    sed "s,/usr/\(sbin\|share/doc\)/renew-client-cert,$PREFIX/\1/renew-client-cert," "$unit" >"$work/unit"
    install -D -m 644 "$work/unit" "$DESTDIR$UNITS/system/$(basename "$unit")"
done
install -D -m 644 systemd/80-renew-client-cert.preset "$DESTDIR$UNITS/system-preset/80-renew-client-cert.preset"
install -D -m 644 systemd/80-renew-client-cert.rules "$DESTDIR$UDEV/rules.d/80-renew-client-cert.rules"
for action in cert-status cert-check cert-log cert-dry-run cert-abort; do
    sed "s|@PROGRAM@|$PREFIX/sbin/renew-client-cert|" packaging/action.sh >"$work/action"
    install -D -m 755 "$work/action" "$DESTDIR$PREFIX/share/fioconfig/actions/$action"
done
install -d "$doc/docs"
install -m 644 README.md CHANGELOG.md SECURITY.md LICENSE "$doc/"
for page in docs/*.md; do
    case $page in
        */architecture.md | */benchmark.md | */decisions.md | */testing.md) ;; # for who changes the program
        *) install -m 644 "$page" "$doc/docs/" ;;
    esac
done
install -d "$doc/docs/schemas"
install -m 644 docs/schemas/*.json "$doc/docs/schemas/"
