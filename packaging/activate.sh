# shellcheck shell=sh
# Makes systemd and udev know what was installed, also while an image is being built.
# In postinst and install.sh; $before: what was installed before, empty at a first installation.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
    udevadm control --reload || true
fi
# Only once: later the choice is the operator's.
if [ -z "$before" ] && command -v systemctl >/dev/null; then
    systemctl preset renew-client-cert.path renew-client-cert-offline.service renew-client-cert-if-due.timer || true
fi
if [ -d /run/systemd/system ]; then
    # A daemon that runs is still the one from before.
    systemctl --no-block try-restart renew-client-cert.service || true
    for unit in renew-client-cert.path renew-client-cert-if-due.timer; do
        if systemctl is-enabled --quiet "$unit"; then
            systemctl start "$unit" || true
        fi
    done
fi
