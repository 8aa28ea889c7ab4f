#!/usr/bin/env bash
# Fuzzes the code that reads foreign text and data: configuration, packs' manifests, playlists, requests, the clip builder.
#   deploy/fuzz.sh [SECONDS [TARGET…]]      60 seconds each by default; a finding ends the run and prints its input and how to repeat it
# Needs a nightly toolchain and cargo-fuzz (`cargo install cargo-fuzz`). The corpus stays in target/fuzz for the next run; the
# seeds are in tests/fuzz/seeds.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-60}"
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- config manifest playlist body clip
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is not installed: cargo install cargo-fuzz" >&2; exit 1; }
cargo +nightly --version >/dev/null 2>&1 || { echo "no nightly toolchain: rustup toolchain install nightly" >&2; exit 1; }
out="${CARGO_TARGET_DIR:-target/fuzz}"
mkdir -p "$out/corpus" "$out/findings"
# Touchline's part of it is safe Rust: AddressSanitizer would find nothing there and halve the speed.
args=(--fuzz-dir tests/fuzz --sanitizer none --target-dir "$out/build")
nice -n 15 cargo +nightly fuzz build "${args[@]}" >&2
for target in "$@"; do
    mkdir -p "$out/corpus/$target" "$out/findings/$target"
    log="$out/$target.log"
    if ! nice -n 15 cargo +nightly fuzz run "${args[@]}" "$target" "$out/corpus/$target" "tests/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$out/findings/$target/" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        echo "$target: a finding; its input is in $out/findings/$target, the log is $log" >&2
        exit 1
    fi
    runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    coverage="$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)"
    echo "$target: $runs runs in $seconds s, $coverage, no finding"
done
