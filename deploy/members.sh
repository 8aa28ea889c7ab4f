#!/usr/bin/env bash
# Checks that each crate of the workspace builds by itself and with each of its features, but cuda (deploy/cuda-check.sh), and that the
# documentation has no warnings. Compute needs core with candle; the lints of the gate are of serve with Kafka.
set -euo pipefail
cd "$(dirname "$0")/.."
for member in "touchline-core" "touchline-media" "touchline-media --no-default-features" "touchline-compute" "touchline-learn" \
    "touchline-serve" "touchline --no-default-features" "touchline --no-default-features --features gst"; do
    # shellcheck disable=SC2086
    cargo check --locked -p $member
done
# This machine may have GStreamer, so the checks above do not show that core and compute do without it.
deploy/dependencies.sh
RUSTDOCFLAGS="-D warnings" cargo doc --locked --features kafka --no-deps --document-private-items
