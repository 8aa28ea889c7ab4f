#!/usr/bin/env bash
# Trains both packs on one NVIDIA GPU: builds with CUDA, trains all layers with new views in every epoch and in mixed precision, cross-validates
# by source, builds the packs and compares them with those in weights/.
#
#   deploy/gpu-train.sh DATASET OUT LITE2.safetensors RESNET.safetensors MOBILENET.safetensors
#
# DATASET is a folder that `touchline dataset build` and `split` made; the weights are the initial ones that weights/README.md names.
# OUT gets the runs, packs and evaluations; interrupted runs continue. Needs the driver, and for building what
# deploy/cuda-toolchain.sh brings.
#
#   TOUCHLINE_GPU=1 deploy/gpu-train.sh …        on the second GPU
#   EPOCHS=30 BATCH=128 deploy/gpu-train.sh …    longer, and with larger batches (default: 8 epochs of batches of 64)
#   TOUCHLINE=./touchline deploy/gpu-train.sh …  with a program that was built elsewhere
set -euo pipefail
if [ $# -ne 5 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
dataset="$(realpath "$1")"
mkdir -p "$2"
out="$(realpath "$2")"
lite2="$(realpath "$3")"
resnet="$(realpath "$4")"
mobilenet="$(realpath "$5")"
cd "$(dirname "$0")/.."
gpu="${TOUCHLINE_GPU:-0}"
epochs="${EPOCHS:-8}"
batch="${BATCH:-64}"
command -v nvidia-smi >/dev/null || { echo "nvidia-smi is not installed: install NVIDIA driver 580 or newer first" >&2; exit 1; }
nvidia-smi --id="$gpu" --query-gpu=name,driver_version,compute_cap,memory.total --format=csv
if [ -z "${TOUCHLINE:-}" ]; then
    # shellcheck source=deploy/packages.sh
    . deploy/packages.sh
    need_cargo
    # shellcheck disable=SC2086
    install_packages $BUILD_PACKAGES $RUN_PACKAGES
    CUDA_COMPUTE_CAP="$(nvidia-smi --id="$gpu" --query-gpu=compute_cap --format=csv,noheader | tr -d '.')"
    export CUDA_COMPUTE_CAP
    # shellcheck source=deploy/cuda-toolchain.sh
    . deploy/cuda-toolchain.sh
    cuda_toolchain
    cargo build --release --locked --features cuda --bin touchline
    TOUCHLINE="${CARGO_TARGET_DIR:-target}/release/touchline"
fi

# train MODALITY RUN OPTION…
train() {
    local modality="$1" run="$2"
    shift 2
    "$TOUCHLINE" train "$modality" "$dataset" -o "$out/$run" --resume --device "cuda:$gpu" --mixed-precision --batch "$batch" \
        --epochs "$epochs" --warm-up-epochs 1 --views 1 --still-views 1 --frames 2 --fresh-views --unfreeze all "$@"
}
pictures=(--arch efficientnet_lite2 --init "$lite2" --size 256x256 --learning-rate 5e-4 --head-penalty 3e-3)
train rgb compact "${pictures[@]}"
train rgb compact-folds "${pictures[@]}" --folds 5
train flow compact --init "$mobilenet" --learning-rate 5e-4
train audio compact --init "$mobilenet" --learning-rate 5e-4
train rgb reference --arch resnet50_v2 --init "$resnet" --learning-rate 5e-4
train flow reference --arch resnet50_v2 --init "$resnet" --learning-rate 5e-4
"$TOUCHLINE" pack build "$out/compact" --cv "$out/compact-folds" --dataset "$dataset" -o "$out/packs/compact" --name compact
"$TOUCHLINE" pack build "$out/compact" "$out/reference" --dataset "$dataset" -o "$out/packs/reference" --name reference
for pack in compact reference; do
    "$TOUCHLINE" pack calibrate "$out/packs/$pack" "$dataset"
    "$TOUCHLINE" evaluate "weights/$pack" "$dataset" --json "$out/$pack-before.json"
    "$TOUCHLINE" evaluate "$out/packs/$pack" "$dataset" --json "$out/$pack.json" --against "$out/$pack-before.json"
done
"$TOUCHLINE" evaluate --cv "$out/compact-folds" "$dataset" --json "$out/compact-folds.json"
echo "The packs are in $out/packs. Commit one to weights/ only if its folds are better: the test side must not choose."
