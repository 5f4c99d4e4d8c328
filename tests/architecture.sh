#!/bin/sh
# Three rotations in each key mode on a device of another architecture: tests/architecture.sh arm64|armhf (as root).
#
# The device is a folder with that architecture's Debian and what `make install` installs there; qemu-user, called by
# name, runs its Python, so the kernel needs no binfmt. The servers run on this machine. The folder, 400 MB, is removed
# at the end. armhf: WHEELS names a folder with wheels of cffi and python-pkcs11, see docs/installation.md.
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
# Unpacking is enough: Python runs without any configuration.
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
# On a tmpfs: under qemu-user, 32-bit SoftHSM cannot list a folder of ext4, whose offsets have 64 bits.
TMPDIR=/dev/shm "$python" -m tests.architecture "$root" "/$qemu"
