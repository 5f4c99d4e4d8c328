# Start with `make demo` or `make test`: both create the environment that they need.
PYTHON ?= python3
KEYS ?= token
EXPLORE ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# PACKAGE:FILE, Debian packages and a file of each: for a token, and for the tests.
TOKEN := softhsm2:/usr/bin/softhsm2-util
TOOLS := $(TOKEN) opensc:/usr/bin/pkcs11-tool strace:/usr/bin/strace \
    faketime:/usr/bin/faketime gcc:/usr/bin/cc umockdev:/usr/bin/umockdev-run \
    p11-kit:/usr/bin/p11-kit swtpm:/usr/bin/swtpm libtss2-tcti-swtpm0:/usr/share/doc/libtss2-tcti-swtpm0/copyright \
    libtpm2-pkcs11-1:/usr/share/p11-kit/modules/tpm2_pkcs11.module tpm2-abrmd:/usr/sbin/tpm2-abrmd \
    libtss2-tcti-tabrmd0:/usr/share/doc/libtss2-tcti-tabrmd0/copyright dbus-daemon:/usr/bin/dbus-daemon \
    dbus-bin:/usr/bin/dbus-send \
    mandoc:/usr/bin/mandoc systemd:/usr/bin/systemd-analyze udev:/usr/bin/udevadm iproute2:/usr/sbin/ip lintian:/usr/bin/lintian \
    nginx-light:/usr/sbin/nginx apache2-bin:/usr/sbin/apache2 man-db:/usr/bin/man strongswan-pki:/usr/bin/pki \
    libstrongswan-standard-plugins:/usr/lib/ipsec/plugins/libstrongswan-openssl.so

.PHONY: bench docs fleet fuzz plot soak tokens install uninstall deb lock demo layer test test-oldest test-oldest-libraries test-crash test-architecture test-model test-distribution test-systemd check lint types format token tools libest clean

demo: $(INSTALLED) $(if $(filter token,$(KEYS)),token)
	@$(BIN)/python -m tests.demo --keys $(KEYS)

test: $(INSTALLED) tools libest
	$(BIN)/python -m pytest -n 3 --dist worksteal tests

# Unit and integration tests with the oldest libraries that the program supports, tests/oldest.txt.
OLDEST := build/oldest
OLDEST_TESTS ?= tests/unit tests/integration
test-oldest: $(OLDEST)/.installed tools libest
	$(OLDEST)/bin/python -m pytest -n 3 --dist worksteal $(OLDEST_TESTS)

# The part of test-oldest that .ci/run has time for: the code that calls a library, and one file of each kind of whole
# calls that goes through it (files, a token, TLS, EST, `check`).
test-oldest-libraries:
	@$(MAKE) --no-print-directory test-oldest OLDEST_TESTS="tests/unit/crypto tests/unit/hsm tests/unit/servers \
	    tests/unit/device tests/unit/packaging/test_versions.py $(addprefix tests/integration/,test_rotation.py \
	    test_wire.py test_est.py test_token_objects.py test_odd_certificates.py test_check_system.py test_daemon.py)"

# Checks the recipes of the Yocto layer. If OE_CORE, META_OE and BITBAKE (and META_LMP) name checkouts of a release,
# BitBake parses and resolves them too: packaging/yocto/bitbake.sh
LAYER := packaging/yocto/meta-renew-client-cert
layer: $(INSTALLED)
	$(BIN)/oelint-adv --quiet $(LAYER)/conf/layer.conf $(shell find $(LAYER) -name '*.bb' -o -name '*.bbappend')
	@[ -z "$$OE_CORE$$META_OE$$BITBAKE" ] || packaging/yocto/bitbake.sh

# Interrupts a rotation at every point, fails every system call and every PKCS#11 call, and starts all callers at once a
# hundred times; in both key modes, with three kinds of gateway. 45 minutes on 2 free cores. EXPLORE="--every 10": a tenth.
test-crash: $(INSTALLED) tools
	@$(BIN)/python -m tests.crash.explorer $(EXPLORE)

# Tries the rules in an abstract world, with more faults and changes per path than `make test`: some minutes.
# MODEL="--faults 2 --changes 2".
MODEL ?=
test-model: $(INSTALLED)
	@$(BIN)/python -m tests.model $(MODEL)

# 500 rotations of one device in one process, with each kind of key: nothing may grow. Half an hour.
# SOAK="--keys softhsm", SOAK="--rotations 50".
SOAK ?=
soak: $(INSTALLED) tools
	$(BIN)/python -m tests.soak $(SOAK)

# Damaged input for everything that parses data from outside: ten minutes for each of eleven targets.
# FUZZ="--minutes 1", FUZZ="csrattrs TOML".
FUZZ ?=
fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Runs the suite with every kind of token and writes the table in docs/tokens.md. Some minutes.
tokens: $(INSTALLED) tools
	$(BIN)/python -m tests.tokens.table

# 10,000 devices that rotate at the same minute, simulated with the program's own waits: a table and build/fleet/fleet.png.
fleet: $(INSTALLED) plot
	$(BIN)/python -m tests.fleet

plot: $(INSTALLED)
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check 'matplotlib>=3.8'

# Renders the documents and the manual page as HTML: build/docs/index.html.
docs: $(INSTALLED)
	@$(call packages,mandoc:/usr/bin/mandoc)
	PYTHONPATH=. $(BIN)/python packaging/pages.py build/docs

# Tokens, TLS and whole rotations with another Debian's Python and OpenSSL, in a folder that it creates (as root).
SUITE ?= trixie
test-distribution: $(INSTALLED)
	@[ -e /usr/sbin/debootstrap ] || apt-get install -y -qq debootstrap >/dev/null
	tests/distribution.sh $(SUITE) $(BIN)/python

# Measures what a rotation costs: two minutes. BENCH="--runs 15"; BENCH=--publish updates docs/benchmark.md.
BENCH ?=
bench: $(INSTALLED) tools plot
	$(BIN)/python -m tests.bench $(BENCH)

# Installs below DESTDIR, e.g. into an image; the program goes to PREFIX/lib/renew-client-cert. TARGET_PYTHON is the
# interpreter on the device; TARGET_PYTHON_VERSION its version, such as 3.12 (default: TARGET_PYTHON of this machine is
# asked); TARGET_STRIP the strip for the device's architecture; PIP_OPTIONS="--platform manylinux2014_aarch64" that
# architecture. PYTHON builds. docs/installation.md
DESTDIR ?=
PREFIX ?= /usr
TARGET_PYTHON ?= /usr/bin/python3
TARGET_PYTHON_VERSION ?=
TARGET_STRIP ?= strip
PIP_OPTIONS ?=
LOCK ?= packaging/program.lock
SITE_PACKAGES ?=
INSTALLATION = DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" TARGET_PYTHON="$(TARGET_PYTHON)" TARGET_STRIP="$(TARGET_STRIP)" \
    TARGET_PYTHON_VERSION="$(TARGET_PYTHON_VERSION)" PIP_OPTIONS="$(PIP_OPTIONS)" LOCK="$(LOCK)" \
    SITE_PACKAGES="$(SITE_PACKAGES)" BUILD_PYTHON="$(abspath $(BUILDER))/bin/python"
# Builds the package, the manual and the completion. Neither the program nor the tests need it.
BUILDER ?= build/environment
$(BUILDER)/.made: packaging/builder.lock
	$(PYTHON) -m venv $(BUILDER)
	$(BUILDER)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@touch $@

# Updates the lock files of `make install` and `make deb` to the newest releases, with the hashes of all their files, for
# every Python and architecture.
LOCKED := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url
lock: $(INSTALLED)
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/python -m uv pip compile $(LOCKED) --output-file packaging/program.lock pyproject.toml >/dev/null
	$(BIN)/python -m uv pip compile $(LOCKED) --output-file packaging/builder.lock packaging/requirements.txt >/dev/null

install: $(BUILDER)/.made
	@$(INSTALLATION) packaging/install.sh

uninstall:
	@$(INSTALLATION) packaging/uninstall.sh

deb: $(BUILDER)/.made
	@$(INSTALLATION) packaging/deb.sh

# Boots a device with the package: a real systemd in its own namespaces. Three minutes, as root.
test-systemd: $(INSTALLED) $(BUILDER)/.made tools
	package=$$($(INSTALLATION) packaging/deb.sh) && $(BIN)/python -m tests.systemd "$$package"

# Three rotations in each key mode with what `make install` installs for another architecture: qemu-user in a folder with
# that architecture's Debian (as root). ARCH=arm64, or ARCH=armhf WHEELS=FOLDER. A quarter of an hour.
ARCH ?= arm64
test-architecture: $(INSTALLED) $(BUILDER)/.made token
	@$(call packages,debootstrap:/usr/sbin/debootstrap qemu-user-static:/usr/bin/qemu-arm-static llvm:/usr/bin/llvm-strip)
	tests/architecture.sh $(ARCH) $(BIN)/python

check: lint types

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.sizes

types: $(INSTALLED)
	$(BIN)/mypy --strict handler hsm

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# $(call environment,FOLDER,EXTRAS,OPTIONS OF PIP): creates a virtual environment with the program and what builds and
# tests it.
comma := ,
define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or later is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$(2)]' -r packaging/requirements.txt $(3)
	@touch $@
endef

$(INSTALLED): pyproject.toml packaging/requirements.txt
	$(call environment,$(VENV),lint$(comma)test)

$(OLDEST)/.installed: pyproject.toml packaging/requirements.txt tests/oldest.txt
	$(call environment,$(OLDEST),test,-c tests/oldest.txt)

# $(call packages,PACKAGE:FILE ...): installs missing packages as root; otherwise prints one line with the command.
define packages
	missing=; for each in $(1); do [ -e "$${each#*:}" ] || missing="$$missing $${each%%:*}"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing$$missing"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
	    echo "missing:$$missing; install with: sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; \
	fi
endef

token:
	@$(call packages,$(TOKEN))

tools:
	@$(call packages,$(TOOLS))

# An independent EST server and client, installed or cached in build/libest.
libest:
	@tests/libest.sh

clean:
	rm -rf $(VENV) *.egg-info build dist .hypothesis .mypy_cache .ruff_cache
