# A CUDA 13.0 toolchain without a CUDA installation: NVIDIA's own PyPI wheels in one folder that looks like one. Sourced;
# sets CUDA_HOME, PATH, LIBRARY_PATH, LD_LIBRARY_PATH and CUDA_COMPUTE_CAP. A CUDA_HOME with an nvcc is used as it is.
#
# Linking works too: the wheels' libraries have names with versions only, so links without them are added, and where no
# driver is installed an empty libcuda.so stands in for it at link time.

TOOLCHAIN_WHEELS="nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35 nvidia-cudnn-cu13==9.21.1.3"

cuda_toolchain() {
    export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}"
    if [ -n "${CUDA_HOME:-}" ] && [ -x "$CUDA_HOME/bin/nvcc" ]; then
        export PATH="$CUDA_HOME/bin:$PATH"
        return 0
    fi
    local folder="${CUDA_TOOLCHAIN_DIR:-${CARGO_TARGET_DIR:-target}/cuda-toolchain}"
    mkdir -p "$folder"
    folder="$(cd "$folder" && pwd)"
    if [ "$(cat "$folder/installed" 2>/dev/null)" != "$TOOLCHAIN_WHEELS" ]; then
        command -v python3 >/dev/null || { echo "python3 is not installed: install it, or set CUDA_HOME to a CUDA 12.8 or newer" >&2; return 1; }
        python3 -m venv "$folder/venv"
        # shellcheck disable=SC2086
        "$folder/venv/bin/pip" install --quiet --no-deps --upgrade --target "$folder/wheels" $TOOLCHAIN_WHEELS
        printf '%s' "$TOOLCHAIN_WHEELS" >"$folder/installed"
    fi
    local home="$folder/wheels/nvidia/cu13" cudnn="$folder/wheels/nvidia/cudnn" library name
    ln -sfn lib "$home/lib64"
    for library in "$home"/lib/lib*.so.* "$cudnn"/lib/lib*.so.*; do
        name="$(basename "$library")"
        [ "$(dirname "$library")" = "$home/lib" ] || ln -sf "$library" "$home/lib/$name"
        ln -sf "$name" "$home/lib/${name%%.so.*}.so"
    done
    ln -sf "$cudnn"/include/*.h "$home/include/"
    chmod +x "$home"/bin/* "$home"/nvvm/bin/* 2>/dev/null || true
    if ! ldconfig -p 2>/dev/null | grep -q libcuda.so.1; then
        mkdir -p "$home/lib/stubs"
        [ -e "$home/lib/stubs/libcuda.so" ] ||
            cc -shared -nostdlib -x c /dev/null -Wl,-soname,libcuda.so.1 -o "$home/lib/stubs/libcuda.so"
    fi
    export CUDA_HOME="$home" PATH="$home/bin:$PATH"
    export LIBRARY_PATH="$home/lib:$home/lib/stubs${LIBRARY_PATH:+:$LIBRARY_PATH}"
    export LD_LIBRARY_PATH="$home/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}
