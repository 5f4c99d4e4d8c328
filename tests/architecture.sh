#!/bin/sh
# Three rotations in each key mode on a device of another architecture: tests/architecture.sh arm64|armhf (as root).
#
# The device is a folder with that architecture's Debian, in which `make install` has installed; qemu-user runs its Python,
# called by name, so that the kernel need not know of it. The servers run on this machine. The folder, 400 MB, is
# removed at the end. For armhf cffi and python-pkcs11 have no wheels: WHEELS names a folder with those that were built.
set -eu
architecture=${1:?name an architecture of Debian: arm64 or armhf}
python=${2:-python3}
case "$architecture" in
    arm64) qemu=qemu-aarch64-static platforms="manylinux2014_aarch64 manylinux_2_28_aarch64" ;;
    armhf) qemu=qemu-arm-static platforms="manylinux2014_armv7l manylinux_2_31_armv7l linux_armv7l" ;;
    *) echo "tests/architecture.sh: $architecture is not known here: arm64 or armhf" >&2; exit 1 ;;
esac
[ "$(id -u)" = 0 ] || { echo "tests/architecture.sh: debootstrap needs root" >&2; exit 1; }
cd "$(dirname "$0")/.."
suite=bookworm
mirror=${MIRROR:-http://deb.debian.org/debian}
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root" "$root.log"' EXIT

echo "making Debian $suite for $architecture in a folder of its own"
debootstrap --foreign --arch="$architecture" --variant=minbase --include=python3,softhsm2,libudev1 \
    "$suite" "$root" "$mirror" >"$root.log" 2>&1 || { tail -5 "$root.log" >&2; exit 1; }
# Unpacked is enough: nothing in it has to be configured to run Python.
for package in "$root"/var/cache/apt/archives/*.deb; do
    dpkg -x "$package" "$root"
done
cp "$(command -v "$qemu")" "$root/"
lock=packaging/program.lock
if [ -n "${WHEELS:-}" ]; then  # they have hashes of their own
    lock=$root/program.lock
    cp packaging/program.lock "$lock"
    for wheel in "$WHEELS"/*.whl; do
        name=$(basename "$wheel" | cut -d - -f 1 | tr _ -)
        sed -i "/^$name==/a\    --hash=sha256:$(sha256sum <"$wheel" | cut -d ' ' -f 1) \\\\" "$lock"
    done
fi
make --no-print-directory install LOCK="$lock" DESTDIR="$root" TARGET_PYTHON_VERSION=3.11 \
    PIP_OPTIONS="$(printf -- '--platform %s ' $platforms)${WHEELS:+--find-links $WHEELS}"
"$python" -m tests.architecture "$root" "/$qemu"
