# shellcheck shell=sh
# For prerm and uninstall.sh: stops the units before their removal and leaves a working device.
if [ -d /run/systemd/system ]; then
    journal=$(systemctl cat renew-client-cert-offline.service | sed -n 's/^ConditionPathExists=|\{0,1\}//p' | grep '/journal$')
    systemctl stop renew-client-cert.path renew-client-cert-if-due.timer renew-client-cert.service || true
    # Acts only if the switch was interrupted.
    systemctl start renew-client-cert-offline.service || true
    # A killed rotation had stopped fioconfig: nothing else starts it again.
    if [ "$(grep -o '"fioconfig_stopped":[a-z]*' "$journal" 2>/dev/null | tail -n 1)" = '"fioconfig_stopped":true' ]; then
        systemctl start fioconfig.service || true
        if systemctl is-enabled --quiet fioconfig.path; then
            systemctl start fioconfig.path || true
        fi
    fi
fi
