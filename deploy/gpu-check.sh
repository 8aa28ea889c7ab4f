#!/usr/bin/env bash
# The one script to run on a machine with an NVIDIA GPU: builds with CUDA, checks that the GPU computes what the CPU computes,
# and prints the table for benches/RESULTS.md.
#
#   deploy/gpu-check.sh                  parity, stages, streams; the peers with PYTHON=python3 (torch, torchvision, opencv)
#   TOUCHLINE_GPU=1 deploy/gpu-check.sh  on the second GPU
#   BENCH=./touchline-gpu-bench deploy/gpu-check.sh   with a program that was built elsewhere: no Rust, no toolkit needed
#
# Needs the driver, and at run time cuBLAS, cuRAND, NVRTC and cuDNN: those of a CUDA installation, or the wheels that
# deploy/cuda-toolchain.sh brings. No GStreamer.
set -euo pipefail
cd "$(dirname "$0")/.."
gpu="${TOUCHLINE_GPU:-0}"
command -v nvidia-smi >/dev/null || { echo "nvidia-smi is not installed: install NVIDIA driver 580 or newer first" >&2; exit 1; }
nvidia-smi --query-gpu=index,name,driver_version,compute_cap,memory.total --format=csv
if [ -z "${BENCH:-}" ]; then
    # shellcheck source=deploy/packages.sh
    . deploy/packages.sh
    need_cargo
    # Kernels of the tensor library are compiled for this very GPU.
    CUDA_COMPUTE_CAP="$(nvidia-smi --id="$gpu" --query-gpu=compute_cap --format=csv,noheader | tr -d '.')"
    export CUDA_COMPUTE_CAP
    # shellcheck source=deploy/cuda-toolchain.sh
    . deploy/cuda-toolchain.sh
    cuda_toolchain
    cargo build --release --locked -p touchline --no-default-features --features cuda --bin touchline-gpu-bench
    BENCH="${CARGO_TARGET_DIR:-target}/release/touchline-gpu-bench"
    echo "== the kernels' tests, on cuda:$gpu"
    TOUCHLINE_GPU="$gpu" cargo test --release --locked -p touchline-compute --features cuda --test parity cuda_kernels -- --test-threads 1
fi
echo "== parity with the CPU"
"$BENCH" parity --device "$gpu"
echo "== stages"
"$BENCH" stages --device "$gpu"
echo "== streams"
"$BENCH" streams --device "$gpu"
if [ -n "${PYTHON:-}" ]; then
    echo "== peers"
    "$PYTHON" benches/peers/gpu.py --device "$gpu"
fi
