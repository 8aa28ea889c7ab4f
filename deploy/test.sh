#!/usr/bin/env bash
# Installs what is needed and runs all tests: units, parity with reference implementations, real RTSP, HLS, SRT and UDP
# servers, the page in headless Chromium. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
. deploy/packages.sh
need_cargo
# shellcheck disable=SC2086
install_packages $BUILD_PACKAGES $KAFKA_BUILD_PACKAGES $RUN_PACKAGES $TEST_PACKAGES
# Python packages that read exported files, KFP for the training pipeline, and axe-core for the page.
python="${CARGO_TARGET_DIR:-target}/test-python"
requirements=(tests/requirements.txt deploy/kubeflow/requirements.txt tests/requirements-bare.txt)
if ! cat "${requirements[@]}" | cmp -s - "$python/installed"; then
    rm -rf "$python"
    python3 -m venv "$python"
    pip=("$python/bin/pip" install --quiet --disable-pip-version-check --only-binary :all:)
    "${pip[@]}" -r tests/requirements.txt -r deploy/kubeflow/requirements.txt
    "${pip[@]}" --no-deps -r tests/requirements-bare.txt
    cat "${requirements[@]}" > "$python/installed"
fi
TOUCHLINE_TEST_PYTHON="$(realpath -s "$python")/bin/python"
export TOUCHLINE_TEST_PYTHON
# hls.js, which plays a playlist that `touchline export` wrote.
command -v npm >/dev/null || install_packages npm
node="${CARGO_TARGET_DIR:-target}/test-node"
if ! cmp -s tests/package.json "$node/package.json"; then
    rm -rf "$node"
    mkdir -p "$node"
    cp tests/package.json "$node/"
    npm install --prefix "$node" --silent --no-audit --no-fund --ignore-scripts || { rm "$node/package.json"; exit 1; }
fi
TOUCHLINE_TEST_NODE="$(realpath -s "$node")"
export TOUCHLINE_TEST_NODE
# Most tests wait for servers and for media that play at their own speed, so there are more of them at once than processors.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
# A test that cannot run here fails unless tests/common/skip.rs allows the skip.
export TOUCHLINE_TESTS_SKIP=fail
# With Kafka, as the lints of the gate: the crates are built once for both.
tests=(cargo test --locked --features kafka)
if [ $# -gt 0 ]; then
    exec "${tests[@]}" "$@"
fi
"${tests[@]}" --no-run
# A failing binary does not hide the others.
tests+=(--no-fail-fast)
# Three lanes side by side, because most tests wait: one of tests that compute (training, references, the clip builder), with a lower
# priority so that streams keep their pace; one of the page, of the two minutes of faults, and of units; and one of all others. The tests
# of the program run one by one, so those of fleets run beside the others: after the tests that compute, when the processors have time.
logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT
{
    computed=0
    nice -n 10 "${tests[@]}" --test learn --test parity --test clip || computed=$?
    "${tests[@]}" --test program fleet:: || computed=$?
    exit "$computed"
} > "$logs/computing" 2>&1 &
computing=$!
"${tests[@]}" --test http --test soak --lib --bins --examples > "$logs/page" 2>&1 &
page=$!
status=0
"${tests[@]}" --test '[!chlps]*' --test 'c[!l]*' --test 'l[!e]*' --test 'p[!a]*' -- --skip fleet:: || status=$?
wait "$page" || status=$?
wait "$computing" || status=$?
cat "$logs/page" "$logs/computing"
exit "$status"
