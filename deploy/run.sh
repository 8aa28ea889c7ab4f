#!/usr/bin/env bash
# Installs what is needed, builds Touchline, and runs it.
#
#   deploy/run.sh URI...     watches the streams (any arguments of `touchline run`)
#   deploy/run.sh            shows a demonstration: two channels that the program draws itself
#
# The page is on http://127.0.0.1:8080 unless --listen says otherwise. Ctrl-C ends it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
. deploy/packages.sh
need_cargo
# shellcheck disable=SC2086
install_packages $BUILD_PACKAGES $RUN_PACKAGES
cargo build --release --locked
program="${CARGO_TARGET_DIR:-target}/release/touchline"
[ $# -gt 0 ] || exec "$program" demo
exec "$program" run "$@"
