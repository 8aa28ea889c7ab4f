//! Convolutions by cuDNN on tensors (N, H, W, C), with sums in f32.
//!
//! candle's own call of cuDNN takes (N, C, H, W), which tensor cores do not support, sums f16 in f16, and queries the algorithm
//! at every call. Here the algorithm is queried once per shape.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionFwdAlgo_t as Algorithm, cudnnConvolutionMode_t as Mode, cudnnMathType_t as Math,
    cudnnTensorFormat_t as Format,
};
use candle_core::cuda_backend::cudarc::cudnn::{ConvForward, Cudnn, CudnnDataType};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, DeviceId};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp2, Layout, Result, Shape, bail};

use crate::gpu::launch::ElementType;
use crate::nn::window_count;

/// (x, weight) → convolution without bias: x (N, H, W, Cin), weight (Cout, k, k, Cin).
pub(super) struct Conv {
    pub stride: usize,
    pub padding: usize,
}

/// Everything that the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct AlgorithmKey {
    device: DeviceId,
    numbers: ElementType,
    x: [usize; 4],
    weight: [usize; 4],
    stride: usize,
    padding: usize,
}

/// An algorithm, and the workspace it needs, bytes.
type AlgorithmChoice = (Algorithm, usize);

/// Shapes whose algorithms are cached: a batch has any size up to its limit, and each network has a few dozen layers.
const CHOICES_KEPT: usize = 1 << 14;

/// The cuDNN handles of a thread, which no other thread may use, and the algorithms chosen so far.
#[derive(Default)]
struct CudnnState {
    handles: HashMap<DeviceId, Arc<Cudnn>>,
    choices: HashMap<AlgorithmKey, AlgorithmChoice>,
}

thread_local! {
    static CUDNN: RefCell<CudnnState> = RefCell::default();
}

/// Leaks this thread's handle of a failed device: destroying it would call the device.
pub(crate) fn abandon(device: DeviceId) {
    CUDNN.with_borrow_mut(|own| {
        own.choices.retain(|key, _| key.device != device);
        std::mem::forget(own.handles.remove(&device));
    });
}

/// Creates this thread's cuDNN handle for `device`, to find out whether cuDNN works.
///
/// # Errors
/// When cuDNN fails to start on the device.
pub fn start(device: &CudaDevice) -> Result<()> {
    handle(device).map(drop)
}

fn handle(device: &CudaDevice) -> Result<Arc<Cudnn>> {
    CUDNN.with_borrow_mut(|own| match own.handles.get(&device.id()) {
        Some(handle) => Ok(handle.clone()),
        None => {
            let handle = Cudnn::new(device.cuda_stream())?;
            own.handles.insert(device.id(), handle.clone());
            Ok(handle)
        }
    })
}

impl Conv {
    fn run<T>(
        &self,
        (x, x_l): (&CudaStorage, &Layout),
        weight: (&CudaStorage, &Layout),
        key: AlgorithmKey,
    ) -> Result<CudaStorage>
    where
        T: CudaDType + CudnnDataType + DeviceRepr + num_like::ConvScalar,
    {
        let device = x.device();
        let [n, h, w, inputs] = key.x;
        let [outputs, kernel, _, _] = key.weight;
        let count = |side| window_count(self.name(), side, kernel, self.stride, self.padding);
        let (out_h, out_w) = (count(h)?, count(w)?);
        let sizes = |values: [usize; 4]| values.map(|v| v as i32);
        let cudnn = handle(device)?;
        let (pad, step) = ([self.padding as i32; 2], [self.stride as i32; 2]);
        let mut conv = cudnn.create_conv2d::<f32>(pad, step, [1, 1], Mode::CUDNN_CROSS_CORRELATION)?;
        // Forces f32 products: by default cuDNN rounds factors to ten bits (TF32).
        conv.set_math_type(match key.numbers {
            ElementType::F32 => Math::CUDNN_FMA_MATH,
            ElementType::F16 | ElementType::Bf16 => Math::CUDNN_TENSOR_OP_MATH,
        })?;
        let format = Format::CUDNN_TENSOR_NHWC;
        let x_sizes = cudnn.create_4d_tensor::<T>(format, sizes([n, inputs, h, w]))?;
        let y_sizes = cudnn.create_4d_tensor::<T>(format, sizes([n, outputs, out_h, out_w]))?;
        let weight_sizes = cudnn.create_4d_filter::<T>(format, sizes([outputs, inputs, kernel, kernel]))?;
        let forward = ConvForward { conv: &conv, x: &x_sizes, w: &weight_sizes, y: &y_sizes };
        let known = CUDNN.with_borrow(|own| own.choices.get(&key).copied());
        let (algorithm, bytes) = match known {
            Some(choice) => choice,
            None => {
                let algorithm = forward.pick_algorithm()?;
                let choice = (algorithm, forward.get_workspace_size(algorithm)?);
                CUDNN.with_borrow_mut(|own| {
                    if own.choices.len() >= CHOICES_KEPT {
                        own.choices.clear();
                    }
                    own.choices.insert(key, choice);
                });
                choice
            }
        };
        let start = |layout: &Layout| match layout.contiguous_offsets() {
            Some((start, end)) => Ok(start..end),
            None => bail!("{}: expected contiguous tensors", self.name()),
        };
        let source = x.as_cuda_slice::<T>()?.slice(start(x_l)?);
        let filter = weight.0.as_cuda_slice::<T>()?.slice(start(weight.1)?);
        // SAFETY: the convolution writes every element.
        let mut y = unsafe { device.alloc::<T>(n * out_h * out_w * outputs) }?;
        let mut space: Option<CudaSlice<u8>> = match bytes {
            0 => None,
            // SAFETY: a workspace is written before it is read, by cuDNN's own contract.
            bytes => Some(unsafe { device.alloc::<u8>(bytes) }?),
        };
        // SAFETY: the descriptors match the slices: their sizes were taken from the tensors' own, their type is `T`.
        unsafe { forward.launch(algorithm, space.as_mut(), (T::one(), T::zero()), &source, &filter, &mut y) }?;
        Ok(CudaStorage::wrap_cuda_slice(y, device.clone()))
    }
}

/// cuDNN's scale factors 1 and 0, by element type.
mod num_like {
    pub(super) trait ConvScalar {
        fn one() -> Self;
        fn zero() -> Self;
    }

    macro_rules! one {
        ($number:ty, $one:expr, $zero:expr) => {
            impl ConvScalar for $number {
                fn one() -> Self {
                    $one
                }

                fn zero() -> Self {
                    $zero
                }
            }
        };
    }

    one!(f32, 1.0, 0.0);
    one!(half::f16, half::f16::ONE, half::f16::ZERO);
    one!(half::bf16, half::bf16::ONE, half::bf16::ZERO);
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{}: the layout (N, H, W, C) is for GPUs only", self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_l: &Layout,
        weight: &CudaStorage,
        weight_l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (n, h, w, inputs) = x_l.shape().dims4()?;
        let (outputs, kernel, across, taken) = weight_l.shape().dims4()?;
        if kernel != across || inputs != taken || x.dtype() != weight.dtype() {
            bail!("{}: weights {:?} do not fit {:?}", self.name(), weight_l.dims(), x_l.dims());
        }
        let Some(numbers) = ElementType::of_dtype(x.dtype()) else { bail!("{}: of {:?}", self.name(), x.dtype()) };
        let key = AlgorithmKey {
            device: x.device().id(),
            numbers,
            x: [n, h, w, inputs],
            weight: [outputs, kernel, kernel, inputs],
            stride: self.stride,
            padding: self.padding,
        };
        let (x, weight) = ((x, x_l), (weight, weight_l));
        let y = match numbers {
            ElementType::F32 => self.run::<f32>(x, weight, key)?,
            ElementType::F16 => self.run::<half::f16>(x, weight, key)?,
            ElementType::Bf16 => self.run::<half::bf16>(x, weight, key)?,
        };
        let count = |side| window_count(self.name(), side, kernel, self.stride, self.padding);
        Ok((y, (n, count(h)?, count(w)?, outputs).into()))
    }
}
