//! The CUDA libraries, opened on first use.
//!
//! candle's bindings link to the functions of driver and libraries by name. A program linked that way does not start on a
//! machine without one of the libraries, and cannot report which. Therefore every CUDA function that the program calls is
//! defined here as a jump through a table. [`load`] fills the table; before that, and where a library lacks a function, calls
//! return an error code. The linker then records no dependency on the libraries (`deploy/cuda-check.sh` checks that).
//!
//! The CUDA runtime is never opened: nothing that is used needs it. Code of candle's kernels that registers with the runtime at
//! program start, or could call it, always receives an error.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::GpuError;

/// Defines each function as a jump through its table entry, which is a name and an address.
macro_rules! functions {
    ($($name:literal),* $(,)?) => {
        #[cfg(target_arch = "x86_64")]
        std::arch::global_asm!(
            ".pushsection .data.touchline_cuda,\"aw\",@progbits",
            ".balign 8",
            ".globl touchline_cuda_table",
            "touchline_cuda_table:",
            $(concat!(".Ltouchline_", $name, ": .quad .Ltouchline_name_", $name, ", touchline_cuda_absent"),)*
            ".globl touchline_cuda_table_end",
            "touchline_cuda_table_end:",
            ".popsection",
            ".pushsection .rodata.touchline_cuda,\"a\",@progbits",
            $(concat!(".Ltouchline_name_", $name, ": .asciz \"", $name, "\""),)*
            ".popsection",
            ".pushsection .text.touchline_cuda,\"ax\",@progbits",
            "touchline_cuda_absent: mov eax, 999",
            "ret",
            $(
                concat!(".globl ", $name),
                concat!(".type ", $name, ",@function"),
                concat!($name, ": jmp qword ptr [rip + .Ltouchline_", $name, " + 8]"),
            )*
            ".popsection",
        );
        #[cfg(target_arch = "aarch64")]
        std::arch::global_asm!(
            ".pushsection .data.touchline_cuda,\"aw\",@progbits",
            ".balign 8",
            ".globl touchline_cuda_table",
            "touchline_cuda_table:",
            $(concat!(".Ltouchline_", $name, ": .quad .Ltouchline_name_", $name, ", touchline_cuda_absent"),)*
            ".globl touchline_cuda_table_end",
            "touchline_cuda_table_end:",
            ".popsection",
            ".pushsection .rodata.touchline_cuda,\"a\",@progbits",
            $(concat!(".Ltouchline_name_", $name, ": .asciz \"", $name, "\""),)*
            ".popsection",
            ".pushsection .text.touchline_cuda,\"ax\",@progbits",
            "touchline_cuda_absent: mov w0, 999",
            "ret",
            $(
                concat!(".globl ", $name),
                concat!(".type ", $name, ",@function"),
                concat!($name, ": adrp x16, .Ltouchline_", $name),
                concat!("add x16, x16, :lo12:.Ltouchline_", $name),
                "ldr x16, [x16, 8]",
                "br x16",
            )*
            ".popsection",
        );
    };
}

// The functions that candle, cudarc and this crate call: the undefined symbols of a program linked without this file.
#[rustfmt::skip]
functions!(
    // Driver.
    "cuCtxDestroy_v2", "cuCtxGetCurrent", "cuCtxSetCurrent", "cuCtxSynchronize", "cuDeviceGet",
    "cuDeviceGetAttribute", "cuDeviceGetCount", "cuDeviceGetDefaultMemPool", "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2", "cuDevicePrimaryCtxReset_v2", "cuDevicePrimaryCtxRetain", "cuDeviceTotalMem_v2",
    "cuDriverGetVersion", "cuEventCreate", "cuEventDestroy_v2", "cuEventElapsedTime_v2", "cuEventRecord",
    "cuEventSynchronize", "cuGetErrorString", "cuInit", "cuLaunchKernel", "cuMemAllocAsync", "cuMemAlloc_v2",
    "cuMemFreeAsync", "cuMemFreeHost", "cuMemFree_v2", "cuMemHostAlloc", "cuMemPoolSetAttribute",
    "cuMemcpyDtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyPeerAsync", "cuMemsetD8Async",
    "cuModuleGetFunction", "cuModuleLoad", "cuModuleLoadData", "cuModuleUnload", "cuStreamCreate",
    "cuStreamDestroy_v2", "cuStreamIsCapturing", "cuStreamSynchronize", "cuStreamWaitEvent",
    // NVRTC.
    "nvrtcCompileProgram", "nvrtcCreateProgram", "nvrtcDestroyProgram", "nvrtcGetPTX", "nvrtcGetPTXSize",
    "nvrtcGetProgramLog", "nvrtcGetProgramLogSize", "nvrtcVersion",
    // cuBLAS.
    "cublasCreate_v2", "cublasDestroy_v2", "cublasDgemmStridedBatched", "cublasGemmStridedBatchedEx",
    "cublasSetStream_v2", "cublasGetVersion_v2",
    // cuRAND.
    "curandCreateGenerator", "curandDestroyGenerator", "curandSetPseudoRandomGeneratorSeed", "curandSetStream",
    // cuDNN.
    "cudnnConvolutionForward", "cudnnCreate", "cudnnCreateConvolutionDescriptor", "cudnnCreateFilterDescriptor",
    "cudnnCreateTensorDescriptor", "cudnnDestroy", "cudnnDestroyConvolutionDescriptor",
    "cudnnDestroyFilterDescriptor", "cudnnDestroyTensorDescriptor", "cudnnGetConvolutionForwardAlgorithm_v7",
    "cudnnGetConvolutionForwardWorkspaceSize", "cudnnSetConvolution2dDescriptor", "cudnnSetConvolutionMathType",
    "cudnnSetFilter4dDescriptor", "cudnnSetStream", "cudnnSetTensor4dDescriptor", "cudnnSetTensor4dDescriptorEx",
    "cudnnGetVersion",
    // The runtime: never filled in.
    "__cudaGetKernel", "__cudaLaunchKernel_ptsz", "__cudaPopCallConfiguration", "__cudaPushCallConfiguration",
    "__cudaRegisterFatBinary", "__cudaRegisterFatBinaryEnd", "__cudaRegisterFunction", "__cudaRegisterVar",
    "__cudaUnregisterFatBinary", "cudaDeviceGetAttribute", "cudaFree", "cudaFreeAsync_ptsz", "cudaFuncGetAttributes",
    "cudaFuncSetAttribute", "cudaGetDevice", "cudaGetDeviceCount", "cudaGetErrorName", "cudaGetErrorString",
    "cudaGetLastError", "cudaMalloc", "cudaMallocAsync_ptsz", "cudaMemsetAsync_ptsz",
    "cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", "cudaPeekAtLastError", "cudaSetDevice",
    "cudaStreamSynchronize_ptsz",
);

/// One entry of the table.
#[repr(C)]
struct TableEntry {
    name: *const c_char,
    address: *const c_void,
}

unsafe extern "C" {
    static mut touchline_cuda_table: TableEntry;
    static touchline_cuda_table_end: TableEntry;

    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// `RTLD_NOW | RTLD_GLOBAL` of Linux.
const FLAGS: c_int = 0x102;

/// A library: the prefix of its functions, its file names (newest first), and advice when it is missing.
struct Library {
    prefix: &'static str,
    files: &'static [&'static str],
    what: &'static str,
    advice: &'static str,
}

/// A function belongs to the first library whose prefix matches.
const LIBRARIES: [Library; 5] = [
    Library {
        prefix: "cudnn",
        files: &["libcudnn.so.9"],
        what: "cuDNN 9",
        advice: "install it (package cudnn9-cuda-13, or the wheel nvidia-cudnn-cu13) and put its folder on LD_LIBRARY_PATH",
    },
    Library {
        prefix: "cublas",
        files: &["libcublas.so.13", "libcublas.so.12"],
        what: "cuBLAS",
        advice: "install the CUDA 13 libraries (package cuda-libraries-13-0) and put their folder on LD_LIBRARY_PATH",
    },
    Library {
        prefix: "curand",
        files: &["libcurand.so.10"],
        what: "cuRAND",
        advice: "install the CUDA 13 libraries (package cuda-libraries-13-0) and put their folder on LD_LIBRARY_PATH",
    },
    Library {
        prefix: "nvrtc",
        files: &["libnvrtc.so.13", "libnvrtc.so.12"],
        what: "NVRTC (compiles the kernels)",
        advice: "install it (package cuda-nvrtc-13-0) and put its folder on LD_LIBRARY_PATH",
    },
    Library {
        prefix: "cu",
        files: &["libcuda.so.1"],
        what: "the NVIDIA driver",
        advice: "install driver 580 or newer, or give --device cpu",
    },
];

/// Prefixes of functions of the runtime.
const RUNTIME: [&str; 2] = ["__cuda", "cuda"];

/// Opens the libraries and fills the table, once per process: a library installed later is not found.
///
/// # Errors
/// [`GpuError::Unusable`] naming the first missing library and how to install it. The driver is checked first, since the
/// others are useless without it.
pub(super) fn load() -> Result<(), GpuError> {
    static LOADED: OnceLock<Result<(), GpuError>> = OnceLock::new();
    LOADED.get_or_init(open_all).clone()
}

fn open_all() -> Result<(), GpuError> {
    let mut handles = [std::ptr::null_mut(); LIBRARIES.len()];
    for (library, handle) in LIBRARIES.iter().zip(&mut handles).rev() {
        *handle = open(library.files).ok_or_else(|| {
            GpuError::Unusable(format!("{} not found ({}); {}", library.what, library.files[0], library.advice))
        })?;
    }
    // SAFETY: the table lies between the two symbols, which the assembly above defines, and nothing else writes to it; calls
    // through it begin when this has returned, since everything that calls CUDA loads the libraries first. The runtime's
    // registrations, which come earlier, read entries that are never written. Names are NUL-terminated literals.
    unsafe {
        let mut entry = &raw mut touchline_cuda_table;
        let end = &raw const touchline_cuda_table_end;
        while entry.cast_const() < end {
            let name = CStr::from_ptr((*entry).name);
            let text = name.to_str().unwrap_or_default();
            if !RUNTIME.iter().any(|prefix| text.starts_with(prefix)) {
                let own = LIBRARIES.iter().zip(&handles).find(|(library, _)| text.starts_with(library.prefix));
                let address = own.map_or(std::ptr::null_mut(), |(_, handle)| dlsym(*handle, name.as_ptr()));
                if !address.is_null() {
                    (*entry).address = address;
                }
            }
            entry = entry.add(1);
        }
    }
    Ok(())
}

fn open(files: &[&str]) -> Option<*mut c_void> {
    files.iter().find_map(|file| {
        let file = CString::new(*file).ok()?;
        // SAFETY: the name is a string; opening runs the library's own initialisers, as intended.
        let handle = unsafe { dlopen(file.as_ptr(), FLAGS) };
        (!handle.is_null()).then_some(handle)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every function belongs to one of the libraries or to the runtime.
    #[test]
    fn the_table_is_complete() {
        let mut names = Vec::new();
        // SAFETY: as in `open_all`; the table is only read.
        unsafe {
            let mut entry = &raw const touchline_cuda_table;
            while entry < &raw const touchline_cuda_table_end {
                names.push(CStr::from_ptr((*entry).name).to_str().unwrap());
                assert!(!(*entry).address.is_null());
                entry = entry.add(1);
            }
        }
        assert!(names.len() > 80 && names.contains(&"cuInit") && names.contains(&"cudnnConvolutionForward"));
        assert!(
            names.iter().all(|name| LIBRARIES.iter().any(|l| name.starts_with(l.prefix)) || name.starts_with("__"))
        );
    }

    /// Loading fails only on a machine without a driver.
    #[test]
    fn a_missing_library_is_named_with_advice() {
        if let Err(e) = load() {
            let text = e.to_string();
            assert!(text.contains("not found") && text.contains("install") && !text.contains('\n'), "{text}");
        }
        assert!(open(&["libtouchline-is-not-there.so"]).is_none());
    }
}
