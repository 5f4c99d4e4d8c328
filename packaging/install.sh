#!/bin/sh
# For `make install`: installs the program below DESTDIR and says what. The Makefile explains the variables.
set -eu
umask 022  # only root may write what root runs, regardless of the caller's umask
: "${DESTDIR=}" "${PREFIX=/usr}" "${BUILD_PYTHON=python3}" "${PIP_OPTIONS=}" "${LOCK=packaging/program.lock}" "${SITE_PACKAGES=}"
: "${TARGET_PYTHON=/usr/bin/python3}" "${TARGET_PYTHON_VERSION=}" "${TARGET_STRIP=strip}"
export TARGET_PYTHON SITE_PACKAGES
cd "$(dirname "$0")/.."
library=$PREFIX/lib/renew-client-cert
handler=$DESTDIR$PREFIX/share/fioconfig/handlers/renew-client-cert

ours() { grep -q 'Starts renew-client-cert from its private environment' "$1" 2>/dev/null; }

before=
if [ -e "$DESTDIR$PREFIX/lib/systemd/system/renew-client-cert.path" ]; then
    before=same
fi
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
version=${TARGET_PYTHON_VERSION:-$(version_of "$TARGET_PYTHON")} ||
    { echo "$TARGET_PYTHON does not run here: set TARGET_PYTHON_VERSION to the device's Python, such as 3.12" >&2; exit 1; }
case $version in
    3.1[1-9] | 3.[2-9][0-9]) ;;
    *) echo "the device's Python is $version: expected 3.11 or later, such as 3.12" >&2; exit 1 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source"  # without leftovers of earlier builds
cp -r pyproject.toml README.md LICENSE handler hsm "$work/source"
"$BUILD_PYTHON" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$work" "$work/source" 2>"$work/said" ||
    { cat "$work/said" >&2; exit 1; }
new=$DESTDIR$library.new  # replaces the old one when it is complete
rm -rf "$new"
install -d "$new"
# Check the hash of each file: our own wheel, and the libraries unless the device has them.
case " $PIP_OPTIONS " in
    *" --no-deps "*) ;;
    *) cat "$LOCK" >"$work/requirements" ;;
esac
for wheel in "$work"/*.whl; do
    echo "$wheel --hash=sha256:$(sha256sum <"$wheel" | cut -d ' ' -f 1)" >>"$work/requirements"
done
# Wheels only: neither the device nor the image build needs a compiler.
# shellcheck disable=SC2086 # options are several words
"$BUILD_PYTHON" -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: \
    --python-version "$version" $PIP_OPTIONS --target "$new" --require-hashes -r "$work/requirements" 2>"$work/said" ||
    { cat "$work/said" >&2; rm -rf "$new"; exit 1; }
# Sources and headers for compilers, type stubs, tests: never loaded.
rm -rf "$new/bin"
find "$new" \( -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -type d -name tests \) -prune -exec rm -rf {} +
stripped="not stripped: neither $TARGET_STRIP nor llvm-strip can; set TARGET_STRIP"
find "$new" -name '*.so*' -type f >"$work/modules"
for tool in "$TARGET_STRIP" llvm-strip; do
    # shellcheck disable=SC2086 # options are several words
    if xargs -d '\n' $tool --strip-unneeded <"$work/modules" 2>/dev/null; then
        stripped="stripped with $tool"
        break
    fi
done
[ -s "$work/modules" ] || stripped="none"
code="none: no Python $version here to make it; the device compiles at every start"
for python in "$TARGET_PYTHON" "python$version" "$BUILD_PYTHON"; do
    if [ "$(version_of "$python")" = "$version" ]; then
        "$python" -m compileall -q --invalidation-mode unchecked-hash -s "$new" -p "$library" "$new"
        code="for Python $version"
        break
    fi
done
if [ -d "$DESTDIR$library/hooks.d" ]; then  # others' hooks
    mv "$DESTDIR$library/hooks.d" "$new/"
fi
rm -rf "$DESTDIR$library"
mv "$new" "$DESTDIR$library"

if [ -e "$handler" ] && ! ours "$handler"; then
    mv "$handler" "$handler.fioconfig"  # the stock handler, for `make uninstall`
fi
packaging/files.sh

PYTHONPATH=. "$BUILD_PYTHON" packaging/manual.py "$PREFIX" >"$work/page"
gzip -9n <"$work/page" >"$work/man"
install -D -m 644 "$work/man" "$DESTDIR$PREFIX/share/man/man8/renew-client-cert.8.gz"
# Complete file names if no word of ours matches, as in `--storage-dir /va`.
PYTHONPATH=. "$BUILD_PYTHON" -m shtab --shell=bash -u handler.console.arguments.make_parser |
    sed 's|^complete -o bashdefault |&-o default |' >"$work/completion"
install -D -m 644 "$work/completion" "$DESTDIR$PREFIX/share/bash-completion/completions/renew-client-cert"
if [ -z "$DESTDIR" ]; then
    . packaging/activate.sh
fi
program=$(PYTHONPATH=. "$BUILD_PYTHON" -c 'import handler; print(handler.__version__)')
echo "renew-client-cert $program installed below ${DESTDIR:-/}"
echo "  program            $library, $(du -sm "$DESTDIR$library" | cut -f1) MB, started with $TARGET_PYTHON"
echo "  extension modules  $stripped"
echo "  byte code          $code"
if [ -n "$DESTDIR" ]; then
    echo "next, unless the image presets its units: systemctl --root=\"$DESTDIR\" preset \\"
    echo "  renew-client-cert.path renew-client-cert-offline.service renew-client-cert-if-due.timer"
    echo "then, on the device: renew-client-cert check"
else
    echo "next: renew-client-cert check"
fi
