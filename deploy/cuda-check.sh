#!/usr/bin/env bash
# Builds with CUDA on a machine without a GPU: types, lints, the kernels through NVIDIA's own compiler, the unit tests of the
# code that needs no device, and a program that starts without a driver and reports the missing parts. The toolchain comes from PyPI
# (deploy/cuda-toolchain.sh), 2 GB; ten minutes the first time on two cores, two after that. Not part of the gate: it would
# take half of the gate's time for code that changes rarely. Run it after a change to src/compute/gpu, src/compute/nn/cuda, src/compute/features/cuda,
# src/compute/backend or the version of candle.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
. deploy/packages.sh
need_cargo
# shellcheck disable=SC2086
install_packages $BUILD_PACKAGES $RUN_PACKAGES $TEST_PACKAGES
# shellcheck source=deploy/cuda-toolchain.sh
. deploy/cuda-toolchain.sh
cuda_toolchain
echo "== kernels, as the runtime compiler sees them: one file each, no headers"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
kernels=src/compute/features/cuda/kernels
cat src/compute/gpu/common.cuh $kernels/axis.cuh $kernels/resize.cu $kernels/farneback/*.cu $kernels/flow.cu $kernels/spectrum.cu \
    $kernels/mel.cu >"$work/features.cu"
cat src/compute/gpu/common.cuh src/compute/nn/cuda/kernels/*.cu >"$work/layers.cu"
for capability in 75 80 90 100; do
    for name in features layers; do
        nvcc --std=c++17 -arch="sm_$capability" -cubin -o "$work/$name.cubin" "$work/$name.cu"
    done
done
echo "== types and lints"
cargo check --locked -p touchline --no-default-features --features cuda --bin touchline-gpu-bench
cargo clippy --locked --features cuda --all-targets -- -D warnings
echo "== tests that need no GPU"
cargo test --locked -p touchline-compute --features cuda --lib -- gpu:: backend:: features::cuda nn:: models::
echo "== a program that starts anywhere"
cargo build --locked --features cuda --bin touchline
program="${CARGO_TARGET_DIR:-target}/debug/touchline"
if readelf -d "$program" | grep -E 'NEEDED.*lib(cuda|cudart|cublas|cublasLt|curand|cudnn|nvrtc)\.so'; then
    echo "the program names a CUDA library as needed: add its functions to src/compute/gpu/libraries.rs (nm -D --undefined-only $program)" >&2
    exit 1
fi
if ! ldconfig -p | grep -q libcuda.so.1; then
    : >"$work/empty.mp4"
    said="$("$program" score --device cuda:0 "$work/empty.mp4" 2>&1 || true)"
    echo "$said" | grep -q "the NVIDIA driver not found" || { echo "without a driver it says: $said" >&2; exit 1; }
fi
echo "CUDA build: all is well; what a GPU computes, deploy/gpu-check.sh checks on one."
