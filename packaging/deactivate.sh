# shellcheck shell=sh
# Stops what is about to be removed, in prerm and uninstall.sh, and leaves a device that works without it.
if [ -d /run/systemd/system ]; then
    journal=$(systemctl cat renew-client-cert-offline.service | sed -n 's/^ConditionPathExists=|\{0,1\}//p' | grep '/journal$')
    systemctl stop renew-client-cert.path renew-client-cert-if-due.timer renew-client-cert.service || true
    # Does nothing but where the switch was cut in the middle.
    systemctl start renew-client-cert-offline.service || true
    # A rotation that was killed had stopped fioconfig: nobody else starts it again.
    if [ "$(grep -o '"fioconfig_stopped":[a-z]*' "$journal" 2>/dev/null | tail -n 1)" = '"fioconfig_stopped":true' ]; then
        systemctl start fioconfig.service || true
        if systemctl is-enabled --quiet fioconfig.path; then
            systemctl start fioconfig.path || true
        fi
    fi
fi
