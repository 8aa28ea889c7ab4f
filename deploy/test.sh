#!/usr/bin/env bash
# Installs what is needed and runs all tests: units, parity with reference implementations, real RTSP, HLS, SRT and UDP
# servers, the page in headless Chromium. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
. deploy/packages.sh
need_cargo
# shellcheck disable=SC2086
install_packages $BUILD_PACKAGES $RUN_PACKAGES $TEST_PACKAGES
# A test that cannot run here fails unless tests/common/skip.rs allows the skip.
TOUCHLINE_TESTS_SKIP=fail cargo test --locked "$@"
