#!/usr/bin/env bash
# Installs what is needed, builds Touchline, and runs it.
#
#   deploy/run.sh URI...     watches the streams (any arguments of `touchline run`)
#   deploy/run.sh            shows a self-contained demonstration: a moving test pattern and colour bars
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
if [ $# -eq 0 ]; then
    echo "No stream given: a demonstration with a moving test pattern, which is no sport (expect Other, or a guess with a low probability), and colour bars, which are no programme."
    exec "$program" run pattern="testsrc://?width=1280&height=720&live=1" bars="testsrc://?width=640&height=480&fps=25&pattern=bars&audio=0&live=1"
fi
exec "$program" run "$@"
