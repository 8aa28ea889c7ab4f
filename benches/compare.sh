#!/usr/bin/env bash
# Runs all benchmarks one after the other, each next to its peer, and writes what they print to a file, with the machine, the versions and
# the command of each part. The machine should be idle otherwise: the load at each part is in the file too. What is worth keeping goes to
# RESULTS.md by hand, with a sentence about it.
#
#   PYTHON=python3 benches/compare.sh [FILE]     the peers need: numpy opencv-python-headless librosa soxr scipy pillow torch
#                                                torchvision torchaudio onnx onnxruntime openvino
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
out="${1:-target/compare-$(date -u +%Y-%m-%d-%H%M).md}"
mkdir -p "$(dirname "$out")"
failed=()

# Writes the output of a command as a section. A part that fails does not keep the others from running.
part() {
    local title="$1"
    shift
    echo "== $title" >&2
    # shellcheck disable=SC2016 # The backquotes are Markdown.
    printf '\n## %s\n\n`%s`, load %s\n\n```text\n' "$title" "$*" "$(cut -d' ' -f1-3 /proc/loadavg)" >>"$out"
    if ! "$@" >>"$out"; then
        failed+=("$title")
        echo "(failed)" >>"$out"
    fi
    echo '```' >>"$out"
}

peers() {
    "$python" - <<'EOF'
from importlib import metadata

for name in ("numpy", "opencv-python-headless", "librosa", "soxr", "scipy", "pillow", "torch", "torchvision", "torchaudio", "onnx",
             "onnxruntime", "openvino"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "is not installed")
EOF
}

changes=""
git diff --quiet HEAD || changes=" with changes"
{
    echo "# Benchmarks of $(git rev-parse --short HEAD)$changes, $(date -u '+%Y-%m-%d %H:%M') UTC"
    echo
    echo "- $(nproc) processors: $(sed -n 's/^model name\t: //p' /proc/cpuinfo | sort -u | head -n 1); $(uname -sr)"
    echo "- $(rustc --version); $(gst-launch-1.0 --version | sed -n 2p); $(ffmpeg -version | sed -n '1s/ Copyright.*//p'); $("$python" --version)"
    echo "- $(peers | paste -sd, | sed 's/,/, /g')"
} >"$out"

cargo bench --locked --bench models --no-run
part "Models, alternating with their peers" "$python" benches/peers/models.py
for bench in features resample; do
    part "$bench: Touchline" cargo bench --locked --bench "$bench" -- --noplot
    part "$bench: peers" "$python" "benches/peers/$bench.py"
done
part "HLS" cargo bench --locked --bench hls -- --noplot
part "Training, alternating with PyTorch" env PYTHON="$python" RAYON_NUM_THREADS=2 MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=67108864 cargo bench --locked --bench training
cargo build --release --locked
part "Live streams" "$python" benches/streams.py --streams 1 2 4 6 8
for tier in full lean sparse key; do
    part "Live streams, tier $tier" "$python" benches/streams.py --tier "$tier" --streams 6 --seconds 15
done
part "Growth with the number of streams" "$python" benches/streams.py --scale --tier key --streams 1 8 32 64 --seconds 20
part "Live HLS channel in three sizes" "$python" benches/streams.py --ladder --streams 12 24 --seconds 15
part "Recordings, alternating with FFmpeg" "$python" benches/recordings.py
part "First decision and memory" "$python" benches/startup.py
part "A process for each source" "$python" benches/isolation.py
part "Instructions" "$python" benches/instructions.py --record
echo "written: $out" >&2
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
