//! Files of activation ranges, which int8 needs beside the weights.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::{LoadError, Tensors, read_weights_verified, save_f16};
use crate::nn::fused::Range;

/// Writes ranges as `f16` safetensors, a tensor (3, channels) of lows, highs and means for every value. Returns the file's
/// SHA-256.
///
/// # Errors
/// As [`save_f16`].
pub fn save_ranges(ranges: &[Vec<Range>], path: &Path) -> Result<String, LoadError> {
    let failed = |e: candle_core::Error| LoadError::Write { path: path.to_owned(), cause: e.to_string() };
    let mut tensors = Tensors::new();
    for (number, channels) in ranges.iter().enumerate() {
        let row = |of: fn(&Range) -> f32| channels.iter().map(of).collect::<Vec<f32>>();
        let values = [row(|r| r.low), row(|r| r.high), row(|r| r.mean)].concat();
        let tensor = Tensor::from_vec(values, (3, channels.len()), &Device::Cpu).map_err(failed)?;
        tensors.insert(name(number), tensor);
    }
    save_f16(&tensors, path)
}

/// Reads a file of [`save_ranges`].
///
/// # Errors
/// As [`read_weights_verified`]; [`LoadError::Ranges`] when the file has other contents.
pub fn read_ranges(path: &Path, sha256: &str) -> Result<Vec<Vec<Range>>, LoadError> {
    let failed = |cause: String| LoadError::Ranges { path: path.to_owned(), cause };
    let tensors = read_weights_verified(path, sha256, &Device::Cpu)?;
    let channels = |number: usize| {
        let name = name(number);
        let tensor = tensors.get(&name).ok_or_else(|| failed(format!("{name} is missing")))?;
        let rows = tensor.to_dtype(candle_core::DType::F32).and_then(|tensor| tensor.to_vec2::<f32>());
        match rows.map_err(|e| failed(e.to_string()))?.as_slice() {
            [low, high, mean] => {
                let rows = low.iter().zip(high).zip(mean);
                Ok(rows.map(|((low, high), mean)| Range { low: *low, high: *high, mean: *mean }).collect())
            }
            rows => Err(failed(format!("{name} has {} rows instead of 3", rows.len()))),
        }
    };
    (0..tensors.len()).map(channels).collect()
}

/// Name of the tensor of value `number`.
fn name(number: usize) -> String {
    format!("value.{number:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_the_round_trip_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.safetensors");
        let range = |low, high, mean| Range { low, high, mean };
        let ranges = vec![vec![range(-1.5, 2.0, 0.25)], vec![range(0.0, 6.0, 0.5), range(0.0, 0.0, 0.0)]];
        let sha256 = save_ranges(&ranges, &path).unwrap();
        assert_eq!(read_ranges(&path, &sha256).unwrap(), ranges);
        assert!(matches!(read_ranges(&path, &"0".repeat(64)), Err(LoadError::Hash { .. })));
        let other: Tensors =
            [("weight".to_owned(), Tensor::ones((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap())].into();
        let sha256 = save_f16(&other, &path).unwrap();
        let error = read_ranges(&path, &sha256).unwrap_err();
        assert!(error.to_string().contains("value.000 is missing") && !error.advice().is_empty(), "{error}");
    }
}
