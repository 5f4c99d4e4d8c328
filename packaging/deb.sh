#!/bin/sh
# Builds build/renew-client-cert_VERSION_ARCHITECTURE.deb: what `make install` installs, with the scripts beside.
set -eu
: "${INSTALL_PYTHON=/usr/bin/python3}" "${BUILD_PYTHON=python3}"
cd "$(dirname "$0")/.."
root=build/deb
rm -rf "$root"
mkdir -p "$root/DEBIAN"
DESTDIR=$PWD/$root PREFIX=/usr INSTALL_PYTHON=$INSTALL_PYTHON BUILD_PYTHON=$BUILD_PYTHON packaging/install.sh
version=$(PYTHONPATH=. "$BUILD_PYTHON" -c 'import handler; print(handler.__version__.replace(".dev", "~dev"))')
architecture=$(dpkg --print-architecture)
# The wheels are for one minor version of Python.
python=$("$INSTALL_PYTHON" -c 'import sys; print("python3 (>= %d.%d), python3 (<< %d.%d)" % (
    *sys.version_info[:2], sys.version_info[0], sys.version_info[1] + 1))')

# Below /lib, where this Debian looks for units and rules.
mkdir -p "$root/lib/systemd" "$root/lib/udev"
mv "$root/usr/lib/systemd/system" "$root/lib/systemd/system"
mv "$root/usr/lib/udev/rules.d" "$root/lib/udev/rules.d"
rmdir "$root/usr/lib/udev"
find "$root" -name __pycache__ -prune -exec rm -rf {} +  # made by postinst
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
