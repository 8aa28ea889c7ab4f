#!/usr/bin/env bash
# Runs all benchmarks one after the other, each next to its peer. The machine should be idle otherwise. Copy the results
# to RESULTS.md by hand, with the date and the machine.
#
#   PYTHON=python3 benches/compare.sh     the peers need: numpy opencv-python-headless librosa soxr scipy pillow torch
#                                         torchvision torchaudio onnx onnxruntime openvino
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
echo "== models, alternating with their peers"
cargo bench --locked --bench models --no-run
"$python" benches/peers/models.py
for bench in features resample; do
    echo "== $bench: touchline"
    cargo bench --locked --bench "$bench" -- --noplot 2>/dev/null | grep -E "^[a-z].*time:|time:" || true
    echo "== $bench: peers"
    "$python" "benches/peers/$bench.py"
done
echo "== training, alternating with PyTorch"
PYTHON="$python" RAYON_NUM_THREADS=2 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4294967296 \
    MALLOC_TOP_PAD_=67108864 cargo bench --locked --bench training
echo "== live streams"
cargo build --release --locked
"$python" benches/streams.py --streams 1 2 3 4
