#!/bin/sh
# Runs what depends on Python and OpenSSL in another Debian, trixie or later: tests/distribution.sh trixie|sid (as root).
#
# Creates a folder with that Debian, 300 MB, with mounts in a private namespace, and removes it at the end.
set -eu
suite=${1:?name a Debian suite, such as trixie}
python=${2:-python3}
checkout=$(cd "$(dirname "$0")/.." && pwd)
mirror=${MIRROR:-http://deb.debian.org/debian}
[ "$(id -u)" = 0 ] || { echo "tests/distribution.sh: debootstrap needs root" >&2; exit 1; }
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT

echo "making Debian $suite in a folder of its own"
debootstrap --variant=minbase \
    --include=python3,softhsm2,opensc,gcc,libc6-dev,faketime,umockdev,libest-utils,strongswan-pki,libstrongswan-standard-plugins \
    "$suite" "$root" "$mirror" >"$root.log" 2>&1 || { tail -5 "$root.log" >&2; rm -f "$root.log"; exit 1; }
rm -f "$root.log"
version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --python-version "$version" \
    --target "$root/usr/local/lib/python$version/dist-packages" \
    cryptography python-pkcs11 requests pyudev pytest pytest-timeout pytest-xdist hypothesis 2>&1 |
    grep -v 'is ignored' || true
mkdir "$root/opt/checkout"
(cd "$checkout" && tar c --exclude=.venv --exclude=.git --exclude=__pycache__ .) | tar x -C "$root/opt/checkout"
unshare --mount sh -eu -c '
    mount -t proc proc "$0/proc"
    mount --rbind /dev "$0/dev"
    chroot "$0" python3 -c "import ssl, sys; print(\"Python\", sys.version.split()[0], ssl.OPENSSL_VERSION)"
    chroot "$0" sh -c "cd /opt/checkout && python3 -m pytest -n 2 tests/unit/hsm \
        tests/integration/test_rotation.py tests/integration/test_wire.py tests/integration/test_daemon.py \
        tests/integration/test_interoperability.py"
' "$root"
