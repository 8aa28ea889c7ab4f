#!/usr/bin/env bash
# Makes what compose.yaml wants under secrets/: two tokens of Touchline and Grafana's password, each 32 random bytes. What is
# there already stays.
#
# Compose mounts the files as they are, and the containers run as users of their own (10001, 65534, 472): the files are readable,
# the folder is yours alone.
set -euo pipefail
cd "$(dirname "$0")"
install -d -m 0700 secrets
for name in admin_token read_token grafana_password; do
    [ -s "secrets/$name" ] && continue
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"secrets/$name"
    chmod 0444 "secrets/$name"
done
