#!/bin/sh
# Installs the program below DESTDIR: called by `make install`, which says what the variables mean.
set -eu
umask 022  # whatever the caller's: nobody else may write what root runs
: "${DESTDIR=}" "${PREFIX=/usr}" "${INSTALL_PYTHON=/usr/bin/python3}" "${BUILD_PYTHON=python3}" "${PIP_OPTIONS=}"
cd "$(dirname "$0")/.."
library=$PREFIX/lib/renew-client-cert
handlers=$DESTDIR$PREFIX/share/fioconfig/handlers
handler=$handlers/renew-client-cert
units=$DESTDIR$PREFIX/lib/systemd
doc=$DESTDIR$PREFIX/share/doc/renew-client-cert

ours() { grep -q 'Starts renew-client-cert from its private environment' "$1" 2>/dev/null; }

before=
if [ -e "$units/system/renew-client-cert.path" ]; then
    before=same
fi
version=$("$INSTALL_PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source"  # where no build before has left anything
cp -r pyproject.toml README.md LICENSE handler hsm "$work/source"
"$BUILD_PYTHON" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$work" "$work/source" 2>"$work/said" ||
    { cat "$work/said" >&2; exit 1; }
new=$DESTDIR$library.new  # takes the old one's place when it is whole
rm -rf "$new"
install -d "$new"
# Wheels only: a device has no compiler, and neither needs the image's build one for the device's architecture.
# shellcheck disable=SC2086 # options are several words
"$BUILD_PYTHON" -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: \
    --python-version "$version" $PIP_OPTIONS --target "$new" "$work"/*.whl 2>"$work/said" ||
    { cat "$work/said" >&2; rm -rf "$new"; exit 1; }
rm -rf "$new/bin"
"$INSTALL_PYTHON" -m compileall -q --invalidation-mode unchecked-hash -s "$new" -p "$library" "$new"
rm -rf "$DESTDIR$library"
mv "$new" "$DESTDIR$library"

sed -e "s|@PYTHON@|$INSTALL_PYTHON|" -e "s|@LIBRARY@|$library|" packaging/launcher.py.in >"$work/launcher"
if [ -e "$handler" ] && ! ours "$handler"; then
    mv "$handler" "$handler.fioconfig"  # the stock one, for `make uninstall`
fi
install -D -m 755 "$work/launcher" "$handler"
install -D -m 755 "$work/launcher" "$DESTDIR$PREFIX/sbin/renew-client-cert"

for unit in systemd/*.service systemd/*.path systemd/*.timer; do
    sed "s|/usr/\(sbin\|share/doc\)/renew-client-cert|$PREFIX/\1/renew-client-cert|" "$unit" >"$work/unit"
    install -D -m 644 "$work/unit" "$units/system/$(basename "$unit")"
done
install -D -m 644 systemd/80-renew-client-cert.preset "$units/system-preset/80-renew-client-cert.preset"
install -D -m 644 systemd/80-renew-client-cert.rules "$DESTDIR$PREFIX/lib/udev/rules.d/80-renew-client-cert.rules"
sed "s|/usr/share|$PREFIX/share|" packaging/manual.inc >"$work/manual.inc"
PYTHONPATH=. "$BUILD_PYTHON" -c 'import argparse_manpage.cli as a, sys; sys.exit(a.main())' \
    --module handler.console.arguments --function make_parser --project-name renew-client-cert --manual-section 8 \
    --manual-title "System administration" --description "rotate the TLS client certificate of this device" \
    --include "$work/manual.inc" | gzip -9n >"$work/man"
install -D -m 644 "$work/man" "$DESTDIR$PREFIX/share/man/man8/renew-client-cert.8.gz"
# Names of files wherever no word of ours fits, as in `--storage-dir /va`.
PYTHONPATH=. "$BUILD_PYTHON" -m shtab --shell=bash -u handler.console.arguments.make_parser |
    sed 's|^complete -o bashdefault |&-o default |' >"$work/completion"
install -D -m 644 "$work/completion" "$DESTDIR$PREFIX/share/bash-completion/completions/renew-client-cert"
install -d "$doc/docs"
install -m 644 README.md CHANGELOG.md SECURITY.md LICENSE "$doc/"
install -m 644 docs/*.md docs/*.png "$doc/docs/"
if [ -z "$DESTDIR" ]; then
    . packaging/activate.sh
fi
