#!/bin/sh
# A remote action of fioconfig, which runs it without arguments under the name of what it does: cert-status, cert-check,
# cert-log, cert-dry-run or cert-abort. If the output is captured, ARTIFACTS is the folder of files for the operator.
# fioconfig drops the output of an action that fails, so it goes into a file there too.
name=${0##*/}
program=@PROGRAM@
# fioconfig's CONFIG_FILE is that of the action: the request of a rotation lies beside it.
if [ -n "$CONFIG_FILE" ]; then
    CONFIG_FILE=${CONFIG_FILE%/*}/fio-rotate-certs
    export CONFIG_FILE
fi

# Runs the command; keeps its output, its exit status and, if it has one, its JSON.
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
        [ "$status" -ne 1 ] || status=0  # warnings do not keep a rotation from succeeding
        ;;
    cert-log) run log ;;
    # shellcheck disable=SC2086
    cert-dry-run) run rotate --dry-run $RENEW_CLIENT_CERT_OPTIONS ;;
    cert-abort)
        run abort
        # Noted: the daemon goes on with it, as it can stop fioconfig, inside which this runs.
        [ "$status" -ne 75 ] || status=0
        ;;
    *)
        echo "$name is no action: expected cert-status, cert-check, cert-log, cert-dry-run or cert-abort" >&2
        status=64
        ;;
esac
exit "$status"
