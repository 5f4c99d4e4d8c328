#!/bin/sh
# Parses the layer with checkouts of a Yocto release and resolves the recipe's dependencies; builds and fetches nothing.
#
# OE_CORE, META_OE and BITBAKE name the checkouts; META_LMP, optional, one of meta-lmp, to which fioconfig belongs.
# Needs gawk, chrpath, cpio, diffstat, lz4, zstd, file and the locale en_US.UTF-8. Minutes; build/yocto is kept as a cache.
set -eu
layer=$(cd "$(dirname "$0")/meta-renew-client-cert" && pwd)
: "${OE_CORE:?}" "${META_OE:?}" "${BITBAKE:?}" "${META_LMP=}"
release=$(sed -n 's/^LAYERSERIES_CORENAMES = "\(.*\)"/\1/p' "$OE_CORE/meta/conf/layer.conf")
build=$PWD/build/yocto/$release
mkdir -p "$build/conf" "$build/lmp/conf"
git init -q "$build"  # or BitBake takes this folder for part of the sources
cat >"$build/conf/local.conf" <<EOF
MACHINE = "qemuarm64"
DISTRO_FEATURES:append = " systemd usrmerge"
VIRTUAL-RUNTIME_init_manager = "systemd"
INIT_MANAGER = "systemd"
BB_NO_NETWORK = "1"
INHERIT:remove = "sanity create-spdx create-spdx-2.2 create-spdx-3.0"
SOTA_CLIENT = "renew-client-cert"
EOF
cat >"$build/conf/bblayers.conf" <<EOF
BBPATH = "\${TOPDIR}"
BBFILES = ""
BBLAYERS = "$OE_CORE/meta $META_OE/meta-oe $META_OE/meta-python $layer ${META_LMP:+$build/lmp}"
EOF
# Only fioconfig: meta-lmp-base itself depends on layers of other projects.
cat >"$build/lmp/conf/layer.conf" <<EOF
BBFILE_COLLECTIONS += "meta-lmp-base"
BBFILES += "$META_LMP/meta-lmp-base/recipes-support/fioconfig/*.bb"
BBFILE_PATTERN_meta-lmp-base = "^$META_LMP/"
BBFILE_PRIORITY_meta-lmp-base = "9"
LAYERSERIES_COMPAT_meta-lmp-base = "$release"
EOF
export BBPATH="$build" BUILDDIR="$build" LC_ALL=en_US.UTF-8
export PATH="$OE_CORE/scripts:$BITBAKE/bin:$PATH" BB_ENV_PASSTHROUGH_ADDITIONS=BB_NO_NETWORK
cd "$build"
echo "bitbake -p ($release)"
bitbake -p
echo "bitbake -n renew-client-cert"
bitbake -n renew-client-cert
