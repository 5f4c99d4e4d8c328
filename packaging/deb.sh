#!/bin/sh
# Builds build/renew-client-cert_VERSION_ARCHITECTURE.deb: what `make install` installs, and the maintainer scripts.
set -eu
umask 022
: "${TARGET_PYTHON_VERSION:=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')}"
: "${BUILD_PYTHON=python3}"
export TARGET_PYTHON_VERSION BUILD_PYTHON
cd "$(dirname "$0")/.."
root=build/deb
rm -rf "$root"
mkdir -p "$root/DEBIAN"
# Debian 12 looks for units and rules below /lib.
DESTDIR=$PWD/$root PREFIX=/usr TARGET_PYTHON=/usr/bin/python3 UNITS=/lib/systemd UDEV=/lib/udev packaging/install.sh >/dev/null
version=$(PYTHONPATH=. "$BUILD_PYTHON" -c 'import handler; print(handler.__version__.replace(".dev", "~dev"))')
architecture=$(dpkg --print-architecture)
# The wheels are for one minor version of Python.
python="python3 (>= $TARGET_PYTHON_VERSION), python3 (<< 3.$((${TARGET_PYTHON_VERSION#3.} + 1)))"
find "$root" -name __pycache__ -prune -exec rm -rf {} +  # postinst makes them
find "$root/usr/lib/renew-client-cert" -type f ! -perm -u+x -exec chmod 644 {} +
find "$root/usr/lib/renew-client-cert" -name '*.so' -exec chmod 644 {} +

doc=$root/usr/share/doc/renew-client-cert
install -D -m 644 packaging/debian/copyright "$doc/copyright"
printf 'renew-client-cert (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- %s  %s\n' "$version" \
    "$(sed -n 's/^Maintainer: //p' packaging/debian/control)" "$(date -R -r CHANGELOG.md)" | gzip -9n >"$doc/changelog.gz"
install -D -m 644 packaging/debian/lintian-overrides "$root/usr/share/lintian/overrides/renew-client-cert"
size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
sed -e "s|@VERSION@|$version|" -e "s|@ARCHITECTURE@|$architecture|" -e "s|@PYTHON@|$python|" -e "s|@SIZE@|$size|" \
    packaging/debian/control >"$root/DEBIAN/control"
for script in preinst postinst prerm postrm; do
    sed -e '/^#ACTIVATE#$/{r packaging/activate.sh' -e 'd}' -e '/^#DEACTIVATE#$/{r packaging/deactivate.sh' -e 'd}' \
        "packaging/debian/$script" >"$root/DEBIAN/$script"
    chmod 755 "$root/DEBIAN/$script"
done
(cd "$root" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
dpkg-deb --root-owner-group --build "$root" build >/dev/null
rm -rf "$root"
echo "build/renew-client-cert_${version}_$architecture.deb"
