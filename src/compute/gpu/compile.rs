//! Compiles kernels with NVRTC, and caches the result in a file in the user's cache folder.
//!
//! The result is PTX for the device's architecture, which the driver compiles to machine code when it is loaded (and caches
//! itself). The name of a file depends on everything that the PTX depends on. The file holds a hash of its contents and is
//! written atomically; a damaged one is compiled again.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::cuda_backend::cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts, sys};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::GpuError;
use super::launch::KernelModule;

/// Environment variable: a folder for compiled kernels instead of the user's cache folder.
pub const VARIABLE: &str = "TOUCHLINE_CACHE";

/// The PTX of a module for compute capability `major`.`minor`. Compiled once per process.
///
/// # Errors
/// [`GpuError::Unusable`] when NVRTC fails: it is too old for the device, or incompletely installed.
pub(super) fn ptx(module: KernelModule, (major, minor): (i32, i32)) -> Result<&'static str, GpuError> {
    type Compiled = HashMap<(&'static str, i32, i32), &'static str>;
    static COMPILED: OnceLock<Mutex<Compiled>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(Mutex::default);
    let mut compiled = compiled.lock();
    let name = module.name;
    if let Some(ptx) = compiled.get(&(name, major, minor)) {
        return Ok(ptx);
    }
    let source = (module.source)();
    let (nvrtc_major, nvrtc_minor) = version()?;
    let key = hex(&[&source, &format!("{major}.{minor} {nvrtc_major}.{nvrtc_minor}")]);
    let path = folder().map(|folder| folder.join(format!("{name}-{}.ptx", &key[..32])));
    let kept = path.as_deref().and_then(read);
    let ptx = match kept {
        Some(ptx) => ptx,
        None => {
            let ptx = compile(&source, major, minor)?;
            if let Some(Err(e)) = path.as_deref().map(|path| write(path, &ptx)) {
                tracing::debug!("cannot cache the compiled kernels: {e}");
            }
            ptx
        }
    };
    // Leaked on purpose: there are two modules, and candle reads the text at every launch.
    let ptx: &'static str = Box::leak(ptx.into_boxed_str());
    compiled.insert((name, major, minor), ptx);
    Ok(ptx)
}

/// The version of NVRTC.
///
/// # Errors
/// [`GpuError::Unusable`] when the call fails.
pub(super) fn version() -> Result<(i32, i32), GpuError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the function writes two integers to the given pointers and keeps no pointer.
    let status = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    match status {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok((major, minor)),
        status => {
            Err(GpuError::Unusable(format!("NVRTC does not work ({status:?}); install the NVRTC of the CUDA toolkit")))
        }
    }
}

fn compile(source: &str, major: i32, minor: i32) -> Result<String, GpuError> {
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".into()],
        ..CompileOptions::default()
    };
    let ptx = compile_ptx_with_opts(source, options).map_err(|e| {
        let cause = match e {
            CompileError::CompileError { nvrtc, log, .. } => {
                let log = log.to_string_lossy().into_owned();
                format!("{:?}: {}", nvrtc.0, log.lines().find(|l| l.contains("error")).unwrap_or("no reason given"))
            }
            other => format!("{other:?}"),
        };
        GpuError::Unusable(format!(
            "NVRTC cannot compile for compute capability {major}.{minor} ({cause}); install the NVRTC of a newer CUDA toolkit"
        ))
    })?;
    Ok(ptx.to_src())
}

fn hex(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The cache folder; `None` when no environment variable names one.
fn folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable(VARIABLE)
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("touchline")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/touchline")))
}

/// The first line of a file: the hash of the following lines.
const MARK: &str = "// sha256 ";

fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let (head, ptx) = text.split_once('\n')?;
    (head.strip_prefix(MARK)? == hex(&[ptx])).then(|| ptx.to_owned())
}

fn write(path: &Path, ptx: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Two programs may start at the same time: each writes its own file, and the last rename wins.
    let part = path.with_extension(format!("part{}", std::process::id()));
    std::fs::write(&part, format!("{MARK}{}\n{ptx}", hex(&[ptx])))?;
    std::fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/kernels.ptx");
        assert_eq!(read(&path), None);
        write(&path, "one\ntwo\n").unwrap();
        assert_eq!(read(&path).as_deref(), Some("one\ntwo\n"));
        let whole = std::fs::read_to_string(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[4..], "", "one\ntwo\n"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&path), None, "{damaged:?}");
        }
    }
}
