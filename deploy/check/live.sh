#!/usr/bin/env bash
# Runs Touchline on two drawn streams and a source that cannot be reached, with a shadow, lets a real Prometheus with the alert rules
# scrape it for a minute, and asks that every expression of rules and dashboards; those that should have data must have some.
#
#   deploy/check/live.sh [PROGRAM]        after deploy/check.sh, whose tools it uses; target/debug/touchline unless said otherwise
set -euo pipefail
cd "$(dirname "$0")/../.."
program="${1:-${CARGO_TARGET_DIR:-target}/debug/touchline}"
tools="${CARGO_TARGET_DIR:-target}/deploy-check"
work="$(mktemp -d)"
running=()
finish() {
    for process in "${running[@]}"; do kill "$process" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap finish EXIT
cat >"$work/prometheus.yml" <<END
global: { scrape_interval: 5s, evaluation_interval: 5s }
rule_files: ["$PWD/deploy/prometheus/alerts.yml"]
scrape_configs:
  - job_name: touchline
    static_configs: [{ targets: ["127.0.0.1:18090"] }]
END
"$program" run --listen 127.0.0.1:18090 --quiet --retry --shadow weights/compact \
    'pattern=testsrc://?width=640&height=360&live=1' 'silent=testsrc://?width=640&height=360&audio=0&live=1' \
    away=rtsp://127.0.0.1:9/none >"$work/touchline.log" 2>&1 &
running+=($!)
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" --web.listen-address=127.0.0.1:19090 \
    >"$work/prometheus.log" 2>&1 &
running+=($!)
sleep 80
"$tools/venv/bin/python" deploy/check/live.py 127.0.0.1:19090
