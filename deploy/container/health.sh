#!/bin/bash
# Whether Touchline in this container answers: the image has no HTTP client, and bash is one. Exit code 0 or 1.
#
# TOUCHLINE_HEALTH: where to ask [127.0.0.1:8080]. TOUCHLINE_HEALTH_TLS=1: the server speaks TLS, which bash does not; then a
# connection that is taken has to do.
set -u
address="${TOUCHLINE_HEALTH:-127.0.0.1:8080}"
host="${address%:*}" port="${address##*:}"
exec 3<>"/dev/tcp/${host#[}/$port" || exit 1
[ "${TOUCHLINE_HEALTH_TLS:-0}" = 1 ] && exit 0
printf 'GET /healthz HTTP/1.0\r\nHost: %s\r\n\r\n' "$address" >&3
IFS= read -r -t 4 status <&3 || { echo "no answer from $address" >&2; exit 1; }
case "$status" in
    HTTP/1.[01]\ 200*) ;;
    *) echo "$address says: $status" >&2; exit 1 ;;
esac
