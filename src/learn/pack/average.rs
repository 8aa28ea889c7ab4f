//! The mean of the weights of several trainings.
//!
//! Trainings that begin with the same weights and differ in their settings end in one valley of the loss: the mean of their
//! weights is at least as good as the best of them on new material, and costs no more to serve. Source: Wortsman et al.,
//! *Model soups*, ICML 2022.

use std::path::PathBuf;

use candle_core::{DType, Device};

use crate::error::{Error, Result};
use crate::models::{Tensors, read_weights};

/// The mean of the tensors in `files`, of which there is at least one.
///
/// # Errors
/// [`Error::Data`] naming the file that cannot be read or holds other tensors than the first.
pub(super) fn mean(files: &[&PathBuf]) -> Result<Tensors> {
    let read = |path: &PathBuf| -> Result<Tensors> {
        let file = read_weights(path, &Device::Cpu).map_err(|e| Error::data(path, e.to_string(), e.advice()))?;
        Ok(file.tensors)
    };
    let mut sum = read(files[0])?;
    for path in &files[1..] {
        let other = read(path)?;
        for (name, tensor) in &mut sum {
            let own = other.get(name).filter(|t| t.dims() == tensor.dims()).ok_or_else(|| {
                let cause = format!("its tensor {name} is not that of {}", files[0].display());
                Error::data(path, cause, "average trainings of one network")
            })?;
            *tensor = (tensor.to_dtype(DType::F32)? + own.to_dtype(DType::F32)?)?;
        }
    }
    if files.len() > 1 {
        for tensor in sum.values_mut().filter(|t| t.dtype() == DType::F32) {
            *tensor = (&*tensor / files.len() as f64)?;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;

    #[test]
    fn weights_are_averaged_and_other_networks_refused() {
        let dir = tempfile::tempdir().unwrap();
        let save = |name: &str, values: &[f32]| {
            let path = dir.path().join(name);
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
            candle_core::safetensors::save(&Tensors::from([("w".to_owned(), tensor)]), &path).unwrap();
            path
        };
        let (a, b, c) = (save("a", &[1.0, 2.0]), save("b", &[3.0, -2.0]), save("c", &[1.0]));
        let of = |files: &[&PathBuf]| mean(files).unwrap()["w"].to_vec1::<f32>().unwrap();
        assert_eq!((of(&[&a]), of(&[&a, &b])), (vec![1.0, 2.0], vec![2.0, 0.0]));
        let error = mean(&[&a, &c]).unwrap_err().to_string();
        assert!(error.contains("its tensor w"), "{error}");
    }
}
