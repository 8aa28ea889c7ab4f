//! Weights files: safetensors only, verified against the SHA-256 in the pack. Pickles are never opened.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensorError;
use sha2::{Digest, Sha256};

use super::LoadError;

/// Tensors by name.
pub type Tensors = HashMap<String, Tensor>;

/// The contents of one file.
#[derive(Clone, Debug)]
pub struct WeightsFile {
    /// Tensors in the file's own types.
    pub tensors: Tensors,
    /// SHA-256 of the bytes that the tensors were parsed from, 64 lower-case hex digits.
    pub sha256: String,
}

/// Reads a safetensors file onto a device. The file is read once, so the hash is that of the parsed bytes.
///
/// # Errors
/// [`LoadError::Read`], [`LoadError::NotSafetensors`], [`LoadError::Truncated`].
pub fn read_weights(path: &Path, device: &Device) -> Result<WeightsFile, LoadError> {
    let bytes = read(path)?;
    Ok(WeightsFile { sha256: sha256_hex(&bytes), tensors: parse(path, &bytes, device)? })
}

/// As [`read_weights`], but rejects a file whose SHA-256 is not `want` (hex, any case) before parsing it.
///
/// # Errors
/// As [`read_weights`], and [`LoadError::Hash`].
pub fn read_weights_verified(path: &Path, want: &str, device: &Device) -> Result<Tensors, LoadError> {
    let bytes = read(path)?;
    let have = sha256_hex(&bytes);
    if !have.eq_ignore_ascii_case(want) {
        return Err(LoadError::Hash { path: path.to_owned(), have, want: want.to_owned() });
    }
    parse(path, &bytes, device)
}

/// Checks that every floating-point value is finite. Clamping activations would hide NaN from the warm-up run, and the
/// network would be wrong without an error.
///
/// # Errors
/// [`LoadError::NotFinite`] for the first tensor, by name, with a value that is not.
pub fn check_finite(tensors: &Tensors) -> Result<(), LoadError> {
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    for name in names {
        let tensor = &tensors[name];
        if !tensor.dtype().is_float() {
            continue;
        }
        // The f32 sum of trained weights is far from overflow.
        let sum = tensor
            .detach()
            .to_dtype(DType::F32)
            .and_then(|tensor| tensor.abs()?.sum_all()?.to_scalar::<f32>())
            .unwrap_or(f32::NAN);
        if !sum.is_finite() {
            return Err(LoadError::NotFinite { name: name.clone() });
        }
    }
    Ok(())
}

/// SHA-256 of bytes as 64 lower-case hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes tensors as `f16` safetensors, sorted so that equal tensors give equal bytes. Returns the file's SHA-256. The write
/// is atomic: to name + `.part`, then renamed.
///
/// # Errors
/// [`LoadError::Write`], also when a value is not finite as `f16` (beyond ±65504);
/// [`LoadError::DType`] for a tensor that is not floating-point.
pub fn save_f16(tensors: &Tensors, path: &Path) -> Result<String, LoadError> {
    let failed = |cause: String| LoadError::Write { path: path.to_owned(), cause };
    let mut halves = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if !tensor.dtype().is_float() {
            return Err(LoadError::DType { name: name.clone(), have: tensor.dtype().as_str() });
        }
        let half = tensor
            .detach()
            .to_device(&Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F16))
            .and_then(|tensor| tensor.contiguous())
            .map_err(|error| failed(error.to_string()))?;
        let largest = half
            .to_dtype(DType::F32)
            .and_then(|half| half.flatten_all()?.to_vec1::<f32>())
            .map_err(|error| failed(error.to_string()))?
            .into_iter()
            .find(|value| !value.is_finite());
        if let Some(value) = largest {
            return Err(failed(format!("tensor {name} has a value that is {value} as f16")));
        }
        halves.push((name.as_str(), half));
    }
    halves.sort_by_key(|(name, _)| *name);
    let bytes = safetensors::serialize(halves, None).map_err(|error| failed(error.to_string()))?;
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, &bytes)
        .and_then(|()| std::fs::rename(&part, path))
        .map_err(|error| failed(error.to_string()))?;
    Ok(sha256_hex(&bytes))
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|cause| LoadError::Read { path: path.to_owned(), cause })
}

/// Size of the length of the header, at the start of a file; bytes.
const LENGTH_BYTES: usize = 8;

/// safetensors' limit on the header, bytes.
const HEADER_MAX: u64 = 100_000_000;

fn parse(path: &Path, bytes: &[u8], device: &Device) -> Result<Tensors, LoadError> {
    let not_safetensors =
        |cause: &str| LoadError::NotSafetensors { path: path.to_owned(), cause: cause.replace('\n', " ") };
    let truncated = |want: u64| LoadError::Truncated { path: path.to_owned(), have: bytes.len() as u64, want };
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(not_safetensors("too short for a header"));
    };
    let header = u64::from_le_bytes(*length);
    if header > HEADER_MAX || rest.first().is_some_and(|byte| *byte != b'{') {
        return Err(not_safetensors("no header at its start"));
    }
    let data_start = header + LENGTH_BYTES as u64;
    if data_start > bytes.len() as u64 {
        return Err(truncated(data_start));
    }
    candle_core::safetensors::load_buffer(bytes, device).map_err(|error| match error {
        candle_core::Error::SafeTensor(SafeTensorError::MetadataIncompleteBuffer) => {
            match data_length(&rest[..header as usize]) {
                Some(length) if data_start.saturating_add(length) > bytes.len() as u64 => {
                    truncated(data_start.saturating_add(length))
                }
                _ => not_safetensors("the header does not describe the bytes after it"),
            }
        }
        error => not_safetensors(&error.to_string()),
    })
}

/// Length of the data that a header describes, bytes: the largest end of a tensor.
fn data_length(header: &[u8]) -> Option<u64> {
    let header: HashMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_tensors() -> Tensors {
        let tensor = Tensor::new(&[[1f32, -2.5], [65504., 0.1]], &Device::Cpu).expect("a small tensor");
        HashMap::from([("b.weight".to_owned(), tensor.clone()), ("a".to_owned(), tensor)])
    }

    #[test]
    fn the_digest_matches_the_standard() {
        // FIPS 180-4, the example "abc".
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), want);
    }

    #[test]
    fn saved_weights_are_read_as_f16() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("w.safetensors");
        let sha256 = save_f16(&some_tensors(), &path).expect("the file is written");
        let file = read_weights(&path, &Device::Cpu).expect("the file is read");
        assert_eq!(file.sha256, sha256);
        assert_eq!(file.tensors.len(), 2);
        let tensor = &file.tensors["b.weight"];
        assert_eq!(tensor.dtype(), DType::F16);
        let values = tensor.to_dtype(DType::F32).and_then(|t| t.to_vec2::<f32>()).expect("values");
        assert_eq!(values, [[1., -2.5], [65504., 0.099975586]]);
        assert_eq!(
            save_f16(&some_tensors(), &path).expect("the file is written again"),
            sha256,
            "equal tensors give equal bytes"
        );
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "no other file is left");
        read_weights_verified(&path, &sha256.to_uppercase(), &Device::Cpu).expect("the hash matches");
        let error = read_weights_verified(&path, &sha256_hex(b"other"), &Device::Cpu).expect_err("another hash");
        assert!(matches!(&error, LoadError::Hash { have, .. } if *have == sha256), "{error}");
    }

    #[test]
    fn values_beyond_f16_are_not_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("w.safetensors");
        let mut tensors = some_tensors();
        tensors.insert("big".to_owned(), Tensor::new(&[1e5f32], &Device::Cpu).expect("a small tensor"));
        let error = save_f16(&tensors, &path).expect_err("1e5 is not an f16").to_string();
        assert!(error.contains("tensor big has a value that is inf"), "{error}");
        tensors.insert("big".to_owned(), Tensor::new(&[1u32], &Device::Cpu).expect("a small tensor"));
        assert!(matches!(save_f16(&tensors, &path), Err(LoadError::DType { .. })));
        assert!(!path.exists());
        let error = save_f16(&some_tensors(), &folder.path().join("no/such/folder")).expect_err("no folder");
        assert!(matches!(error, LoadError::Write { .. }), "{error}");
    }

    #[test]
    fn nan_and_infinite_values_are_found() {
        let mut tensors = some_tensors();
        check_finite(&tensors).expect("all are finite");
        tensors.insert("count".to_owned(), Tensor::new(&[3u32], &Device::Cpu).expect("a small tensor"));
        check_finite(&tensors).expect("whole numbers are finite");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            tensors.insert("bad".to_owned(), Tensor::new(&[1.0, bad], &Device::Cpu).expect("a small tensor"));
            let error = check_finite(&tensors).expect_err("is not finite").to_string();
            assert!(error.contains("tensor bad"), "{error}");
        }
    }

    /// Each kind of damage has its own message, on one line, with the path.
    #[test]
    fn kinds_of_damage_are_distinguished() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("w.safetensors");
        save_f16(&some_tensors(), &path).expect("the file is written");
        let whole = std::fs::read(&path).expect("the file is read");
        let message = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("the file is written");
            let error = read_weights(&path, &Device::Cpu).expect_err("the file is damaged").to_string();
            assert!(!error.contains('\n') && error.contains("w.safetensors"), "{error}");
            error
        };
        let n = whole.len();
        let cut = message(&whole[..n - 1]);
        assert!(cut.contains(&format!("truncated: {} bytes of {n}", n - 1)), "{cut}");
        assert!(message(&whole[..20]).contains("truncated"));
        assert!(message(b"").contains("not a safetensors file"));
        assert!(message(b"PK\x03\x04 a zip archive, as a pickled network is").contains("not a safetensors file"));
        assert!(message(&[whole.as_slice(), b"more"].concat()).contains("not a safetensors file"));
        let mut changed = whole.clone();
        changed[9] = b'!';
        assert!(message(&changed).contains("not a safetensors file"));
        let error = read_weights(&folder.path().join("absent"), &Device::Cpu).expect_err("the file is absent");
        assert!(matches!(error, LoadError::Read { .. }), "{error}");
    }
}
