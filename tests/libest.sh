#!/bin/sh
# Gets Cisco's libest, the EST server and client that tests/integration/test_interoperability.py runs.
#
# Debian has it from trixie on: installed there when root. In an older Debian its packages of trixie are fetched and
# unpacked into build/libest, once; nothing is installed, so that no root is needed and nothing of trixie gets into the
# system. apt fetches them with the system's settings (mirror, proxy, keys of the archive), but lists and a cache of its
# own, which are removed.
set -eu
suite=trixie
package=libest-utils
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
folder=$(cd "$(dirname "$0")/.." && pwd)/build
[ ! -x /usr/bin/estserver ] && [ ! -x "$folder/libest/usr/bin/estserver" ] || exit 0

give_up() {
    echo "tests/libest.sh: $1: install the Debian package $package (of $suite or later) first" >&2
    exit 1
}

codename=$(. /etc/os-release 2>/dev/null && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}") || codename=
command -v apt-get >/dev/null && [ -n "$codename" ] || give_up "apt-get and Debian are needed to get it"
[ "$(id -u)" != 0 ] || apt-get update -qq
if [ -n "$(apt-cache madison $package)" ]; then
    [ "$(id -u)" = 0 ] || give_up "not root"
    echo "installing $package"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $package >/dev/null
    exit
fi

# The mirror that the system has its own packages from; suites may be named by what they are, too.
mirror=$(apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' 'Component: main' |
    awk -v own="$codename" '$1 == own || $1 ~ /^(oldold|old)?stable$/ { print $2; exit }')
[ -n "$mirror" ] || give_up "apt has no mirror of Debian $codename"
echo "fetching $package of $suite"
own=$(mktemp -d)
trap 'rm -rf "$own"' EXIT
mkdir -p "$own/lists/partial" "$own/cache/archives/partial" "$own/packages" "$own/unpacked"
echo "deb [signed-by=$keyring target=Packages lang=none] $mirror $suite main" >"$own/sources.list"
cat >"$own/apt.conf" <<EOF
Dir::State::lists "$own/lists";
Dir::Cache "$own/cache";
Dir::Etc::sourcelist "$own/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
#clear APT::Update;
APT::Update::Error-Mode "any";
EOF
# apt gives root's rights away to fetch, to a user who has to get here.
chmod 755 "$own"
[ "$(id -u)" != 0 ] || chown _apt "$own/packages"
apt-get -c "$own/apt.conf" update -qq
(cd "$own/packages" && apt-get -c "$own/apt.conf" download -qq $package libest3)
for each in "$own"/packages/*.deb; do dpkg-deb -x "$each" "$own/unpacked"; done
# Copied beside its place, then renamed: what is there is whole.
mkdir -p "$folder"
rm -rf "$folder/libest.new"
cp -R "$own/unpacked" "$folder/libest.new"
mv -T "$folder/libest.new" "$folder/libest"
