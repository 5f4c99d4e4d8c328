# shellcheck shell=sh
# Tells systemd and udev about the new files, also while an image is being built.
# For postinst and install.sh; $before: the version installed before, empty at a first installation.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
    udevadm control --reload || true
fi
# Only at the first installation: later the operator decides.
if [ -z "$before" ] && command -v systemctl >/dev/null; then
    systemctl preset renew-client-cert.path renew-client-cert-offline.service renew-client-cert-if-due.timer || true
fi
if [ -d /run/systemd/system ]; then
    # A running daemon is still the old version.
    systemctl --no-block try-restart renew-client-cert.service || true
    for unit in renew-client-cert.path renew-client-cert-if-due.timer; do
        if systemctl is-enabled --quiet "$unit"; then
            systemctl start "$unit" || true
        fi
    done
fi
