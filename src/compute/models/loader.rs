//! Named tensors to layers: looks tensors up, checks shapes, converts to `f32`, folds batch norm.

use std::path::PathBuf;

use candle_core::{DType, Tensor};

use super::{Architecture, Parts, Tensors};
use crate::nn::{Activation, Conv, Depthwise, Padding, Pointwise, ScaleShift};

/// How many missing names a message lists.
const NAMES_SHOWN: usize = 4;

/// Why weights cannot be read, written or used. Messages are single lines.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read weights {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write weights {}: {cause}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What failed.
        cause: String,
    },
    /// A file is not safetensors.
    #[error("weights {} are not a safetensors file ({cause})", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A file is shorter than its header says.
    #[error("weights {} are truncated: {have} bytes of {want}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length, bytes.
        have: u64,
        /// The length that its header states, bytes.
        want: u64,
    },
    /// A file is not the one that the pack was made with.
    #[error("weights {} have SHA-256 {have}, expected {want}", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Its SHA-256.
        have: String,
        /// The SHA-256 that the pack states.
        want: String,
    },
    /// Tensors of the network are missing.
    #[error("{architecture} lacks {} of its tensors: {}", names.len(), first(names))]
    Missing {
        /// The network.
        architecture: Architecture,
        /// All missing names as the file would spell them, in the order of computation.
        names: Vec<String>,
        /// Their shapes.
        shapes: Vec<Vec<usize>>,
    },
    /// A tensor has another shape than the network needs.
    #[error("tensor {name} has shape {have:?}, {architecture} needs {want:?}")]
    Shape {
        /// The network.
        architecture: Architecture,
        /// The tensor.
        name: String,
        /// Its shape.
        have: Vec<usize>,
        /// The shape that the network needs.
        want: Vec<usize>,
    },
    /// A tensor does not hold floating-point numbers.
    #[error("tensor {name} is of type {have}, not a floating-point type")]
    DType {
        /// The tensor.
        name: String,
        /// Its type.
        have: &'static str,
    },
    /// A weight is NaN or infinite.
    #[error("tensor {name} has a value that is NaN or infinite")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// A file does not hold the ranges for int8.
    #[error("{} does not hold int8 ranges: {cause}", path.display())]
    Ranges {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A tensor operation failed: out of memory, or a device without the op.
    #[error("cannot build {architecture}: {cause}")]
    Build {
        /// The network.
        architecture: Architecture,
        /// candle's error.
        cause: candle_core::Error,
    },
}

impl LoadError {
    /// Advice, as the last part of an error line.
    pub fn advice(&self) -> &'static str {
        match self {
            LoadError::Read { .. } => "check the path and its permissions",
            LoadError::Write { .. } => "check the folder, its permissions and the free space",
            LoadError::NotSafetensors { .. } => {
                "only safetensors files are read; convert a PyTorch file with: python3 -c \"import torch, safetensors.torch as s; \
                 s.save_file({k: v.contiguous() for k, v in torch.load('IN.pth', weights_only=True).items()}, 'OUT.safetensors')\""
            }
            LoadError::Truncated { .. } | LoadError::Hash { .. } => "fetch the file again",
            LoadError::Missing { .. } | LoadError::Shape { .. } | LoadError::DType { .. } => {
                "use the weights of this architecture and class count"
            }
            LoadError::Ranges { .. } => "measure them again with `touchline pack calibrate`",
            LoadError::NotFinite { .. } => "the training diverged; use an earlier checkpoint",
            LoadError::Build { .. } => "check the free memory",
        }
    }
}

/// The first few names, and the number of others.
fn first(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN)].join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Looks up the tensors of a network. A missing one is recorded and replaced by zeros, so that one pass finds all that are
/// missing; [`Loader::finish`] then returns the error.
pub(super) struct Loader<'a> {
    architecture: Architecture,
    tensors: &'a Tensors,
    /// From the network's own name of a tensor to the file's.
    rename: Box<dyn Fn(&str) -> String + 'a>,
    missing: Vec<(String, Vec<usize>)>,
    device: candle_core::Device,
}

impl<'a> Loader<'a> {
    pub fn new(architecture: Architecture, tensors: &'a Tensors, rename: impl Fn(&str) -> String + 'a) -> Self {
        let device = tensors.values().next().map_or(candle_core::Device::Cpu, |tensor| tensor.device().clone());
        Self { architecture, tensors, rename: Box::new(rename), missing: Vec::new(), device }
    }

    /// Returns the parts of the network.
    ///
    /// # Errors
    /// [`LoadError::Missing`] when a tensor was asked for that is not there.
    pub fn finish<L>(
        self,
        input_norm: Option<ScaleShift>,
        body: L,
        classifier: Option<(Tensor, Tensor)>,
    ) -> Result<Parts<L>, LoadError> {
        if self.missing.is_empty() {
            Ok(Parts { device: self.device, input_norm, body, classifier })
        } else {
            let (names, shapes) = self.missing.into_iter().unzip();
            Err(LoadError::Missing { architecture: self.architecture, names, shapes })
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(&(self.rename)(name))
    }

    /// A tensor of a known shape.
    ///
    /// # Errors
    /// [`LoadError::Shape`], [`LoadError::DType`].
    pub fn tensor(&mut self, name: &str, want: &[usize], dtype: DType) -> Result<Tensor, LoadError> {
        let name = (self.rename)(name);
        let Some(tensor) = self.tensors.get(&name) else {
            self.missing.push((name, want.to_vec()));
            return self.built(Tensor::zeros(want, dtype, &self.device));
        };
        if tensor.dims() != want {
            let (architecture, have) = (self.architecture, tensor.dims().to_vec());
            return Err(LoadError::Shape { architecture, name, have, want: want.to_vec() });
        }
        if !tensor.dtype().is_float() {
            return Err(LoadError::DType { name, have: tensor.dtype().as_str() });
        }
        // Detached: inference must not track gradients of variables that are being trained.
        self.built(tensor.detach().to_dtype(dtype).and_then(|tensor| tensor.contiguous()))
    }

    /// The shape of a tensor in the file; `None` without it.
    pub fn dims(&self, name: &str) -> Option<&'a [usize]> {
        self.tensors.get(&(self.rename)(name)).map(Tensor::dims)
    }

    /// Turns an error of candle into one of loading.
    pub fn built<T>(&self, result: candle_core::Result<T>) -> Result<T, LoadError> {
        result.map_err(|cause| LoadError::Build { architecture: self.architecture, cause })
    }

    /// A batch norm with fixed statistics as scale and shift, both (C) `f32`. Computed in `f64`: a small variance that was
    /// stored as `f16` should lose no more precision.
    fn batch_norm(&mut self, name: &str, channels: usize) -> Result<(Tensor, Tensor), LoadError> {
        let mut part = |part: &str| self.tensor(&format!("{name}.{part}"), &[channels], DType::F64);
        let (weight, bias) = (part("weight")?, part("bias")?);
        let (mean, variance) = (part("running_mean")?, part("running_var")?);
        let epsilon = self.architecture.batch_norm_epsilon();
        let fold = || {
            let scale = (weight / (variance + epsilon)?.sqrt()?)?;
            let shift = (bias - (mean * &scale)?)?;
            Ok((scale.to_dtype(DType::F32)?, shift.to_dtype(DType::F32)?))
        };
        self.built(fold())
    }

    /// Weight and bias of a convolution without bias, followed by a batch norm.
    fn folded(&mut self, conv: &str, norm: &str, shape: [usize; 4]) -> Result<(Tensor, Tensor), LoadError> {
        let weight = self.tensor(&format!("{conv}.weight"), &shape, DType::F32)?;
        let (scale, shift) = self.batch_norm(norm, shape[0])?;
        let folded = scale.reshape((shape[0], 1, 1, 1)).and_then(|scale| weight.broadcast_mul(&scale));
        Ok((self.built(folded)?, shift))
    }

    /// A 1×1 convolution and its batch norm.
    pub fn pointwise(
        &mut self,
        (conv, norm): (&str, &str),
        (inputs, outputs): (usize, usize),
        activation: Activation,
    ) -> Result<Pointwise, LoadError> {
        let (weight, bias) = self.folded(conv, norm, [outputs, inputs, 1, 1])?;
        self.built(Pointwise::new(&weight, &bias, activation))
    }

    /// The kernel as it is used with the stride: see [`Padding::kernel`].
    fn padded(&self, weight: &Tensor, stride: usize) -> Result<Tensor, LoadError> {
        self.built(self.architecture.padding().kernel(weight, stride))
    }

    /// A depthwise convolution and its batch norm.
    pub fn depthwise(
        &mut self,
        (conv, norm): (&str, &str),
        channels: usize,
        (kernel, stride): (usize, usize),
        activation: Activation,
    ) -> Result<Depthwise, LoadError> {
        let (weight, bias) = self.folded(conv, norm, [channels, 1, kernel, kernel])?;
        let weight = self.padded(&weight, stride)?;
        self.built(Depthwise::new(&weight, &bias, stride, Padding::of(&weight), activation))
    }

    /// A convolution and its batch norm.
    pub fn conv(
        &mut self,
        (conv, norm): (&str, &str),
        (inputs, outputs): (usize, usize),
        (kernel, stride): (usize, usize),
        activation: Activation,
    ) -> Result<Conv, LoadError> {
        let (weight, bias) = self.folded(conv, norm, [outputs, inputs, kernel, kernel])?;
        let weight = self.padded(&weight, stride)?;
        self.built(Conv::new(&weight, &bias, stride, Padding::of(&weight), activation))
    }

    /// A convolution with padding k/2, without a batch norm after it.
    pub fn bare_conv(
        &mut self,
        conv: &str,
        (inputs, outputs): (usize, usize),
        (kernel, stride): (usize, usize),
    ) -> Result<Conv, LoadError> {
        let weight = self.tensor(&format!("{conv}.weight"), &[outputs, inputs, kernel, kernel], DType::F32)?;
        let bias = self.built(Tensor::zeros(outputs, DType::F32, &self.device))?;
        self.built(Conv::new(&weight, &bias, stride, kernel / 2, Activation::Identity))
    }

    /// A batch norm without a convolution before it.
    pub fn scale_shift(
        &mut self,
        norm: &str,
        channels: usize,
        activation: Activation,
    ) -> Result<ScaleShift, LoadError> {
        let (scale, shift) = self.batch_norm(norm, channels)?;
        self.built(ScaleShift::new(&scale, &shift, activation))
    }

    /// Weight (classes, width) and bias (classes) of the classifier; `None` when `classes` is.
    pub fn classifier(
        &mut self,
        name: &str,
        width: usize,
        classes: Option<usize>,
    ) -> Result<Option<(Tensor, Tensor)>, LoadError> {
        let Some(classes) = classes else { return Ok(None) };
        let weight = self.tensor(&format!("{name}.weight"), &[classes, width], DType::F32)?;
        let bias = self.tensor(&format!("{name}.bias"), &[classes], DType::F32)?;
        Ok(Some((weight, bias)))
    }
}
