#!/usr/bin/env bash
# Runs the CUDA kernels on the processor under sanitizers, without a GPU: first the threads of a block as real threads under
# ThreadSanitizer (a missing barrier shows as a race), then under AddressSanitizer and
# UndefinedBehaviorSanitizer (no access beside a buffer or shared array). Takes some minutes. Arguments choose tests.
set -euo pipefail
cd "$(dirname "$0")/.."
TOUCHLINE_KERNEL_FLAGS="-DTOUCHLINE_THREADS -fsanitize=thread -g" cargo test --locked -p touchline-compute --test parity -- "${@:-cuda_kernels}" --test-threads 1
TOUCHLINE_KERNEL_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -g" ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 \
    cargo test --locked -p touchline-compute --test parity -- "${@:-cuda_kernels}"
