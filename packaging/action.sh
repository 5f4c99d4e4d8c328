#!/bin/sh
# A remote action. fioconfig runs it without arguments; its name says what to do: cert-status, cert-check, cert-log,
# cert-dry-run or cert-abort. If fioconfig captures the output, ARTIFACTS is the folder of files for the operator.
# fioconfig drops the output of a failed action, so the output is also written to a file there.
name=${0##*/}
program=@PROGRAM@
# CONFIG_FILE is the action's own file; the rotation request is in the same folder.
if [ -n "$CONFIG_FILE" ]; then
    CONFIG_FILE=${CONFIG_FILE%/*}/fio-rotate-certs
    export CONFIG_FILE
fi

# Runs the command; stores its output and, if it has any, its JSON; sets $status.
run() {
    said=$("$program" "$@" 2>&1)
    status=$?
    printf '%s\n' "$said"
    if [ -d "$ARTIFACTS" ]; then
        printf '%s\n' "$said" >"$ARTIFACTS/$name.txt"
        if [ "$1" != abort ]; then
            "$program" "$@" --json >"$ARTIFACTS/$name.json" 2>/dev/null
        fi
    fi
}

case $name in
    cert-status) run status ;;
    cert-check)
        # shellcheck disable=SC2086 # options are several words
        run check $RENEW_CLIENT_CERT_OPTIONS
        [ "$status" -ne 1 ] || status=0  # a rotation succeeds despite warnings
        ;;
    cert-log) run log ;;
    # shellcheck disable=SC2086
    cert-dry-run) run rotate --dry-run $RENEW_CLIENT_CERT_OPTIONS ;;
    cert-abort)
        run abort
        # 75: recorded. The daemon finishes it, because only the daemon can stop fioconfig, which runs this.
        [ "$status" -ne 75 ] || status=0
        ;;
    *)
        echo "$name is no action: expected cert-status, cert-check, cert-log, cert-dry-run or cert-abort" >&2
        status=64
        ;;
esac
exit "$status"
