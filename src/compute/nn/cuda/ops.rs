//! Layers of inference on a GPU as candle ops, on tensors (N, H, W, C).

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, InplaceOp2, InplaceOp3, Layout, Result, Shape, Tensor, bail,
};

use super::MODULE;
use crate::gpu;
use crate::gpu::context::{KernelOutput, launch};
use crate::gpu::launch::{Argument, ElementType, Pointer};
use crate::nn::window_count;

/// Channels that a thread processes at a time.
pub(super) const EIGHT: usize = 8;

/// Bounds of an activation.
pub(super) type Bounds = (f32, f32);

/// Address and element type of a contiguous tensor.
pub(in crate::nn) fn pointer(op: &str, storage: &CudaStorage, layout: &Layout) -> Result<(Pointer, ElementType)> {
    let Some((start, _)) = layout.contiguous_offsets() else {
        bail!("{op}: expected a contiguous tensor, got strides {:?} for shape {:?}", layout.stride(), layout.dims());
    };
    let Some(numbers) = ElementType::of_dtype(storage.dtype()) else {
        bail!("{op}: expected f32, f16 or bf16, got {:?}", storage.dtype());
    };
    let stream = storage.device().cuda_stream();
    let memory = match numbers {
        ElementType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        ElementType::F16 => storage.as_cuda_slice::<half::f16>()?.device_ptr(&stream).0,
        ElementType::Bf16 => storage.as_cuda_slice::<half::bf16>()?.device_ptr(&stream).0,
    };
    Ok((Pointer { memory, offset: (start * numbers.bytes()) as u64 }, numbers))
}

/// As [`pointer`], for writing.
fn pointer_mut(op: &str, storage: &mut CudaStorage, layout: &Layout) -> Result<(Pointer, ElementType)> {
    let (pointer, numbers) = pointer(op, storage, layout)?;
    let stream = storage.device().cuda_stream();
    // The same address; requested as mutable, so that cudarc waits for other readers of the tensor.
    let memory = match numbers {
        ElementType::F32 => storage.as_cuda_slice_mut::<f32>()?.device_ptr_mut(&stream).0,
        ElementType::F16 => storage.as_cuda_slice_mut::<half::f16>()?.device_ptr_mut(&stream).0,
        ElementType::Bf16 => storage.as_cuda_slice_mut::<half::bf16>()?.device_ptr_mut(&stream).0,
    };
    Ok((Pointer { memory, ..pointer }, numbers))
}

/// As [`pointer`], of a tensor that must be f32.
pub(in crate::nn) fn f32_pointer(op: &str, storage: &CudaStorage, layout: &Layout) -> Result<Pointer> {
    match pointer(op, storage, layout)? {
        (pointer, ElementType::F32) => Ok(pointer),
        (_, other) => bail!("{op}: expected f32, got {}", other.name()),
    }
}

fn named(kernels: [&'static str; 3], numbers: ElementType) -> &'static str {
    match numbers {
        ElementType::F32 => kernels[0],
        ElementType::F16 => kernels[1],
        ElementType::Bf16 => kernels[2],
    }
}

fn eights(op: &str, count: usize, channels: usize) -> Result<u64> {
    if channels == 0 || !channels.is_multiple_of(EIGHT) {
        bail!("{op}: {channels} channels are not a multiple of {EIGHT}");
    }
    Ok((count / EIGHT) as u64)
}

/// The error of an op that is not for the CPU.
fn no_cpu<T>(op: &str) -> Result<T> {
    bail!("{op}: the layout (N, H, W, C) is for GPUs only")
}

/// `y = clamp(y + bias + residual)` in place: `y` and `residual` (…, C), `bias` (C) f32. `y` must not be shared.
///
/// # Errors
/// When shapes or types do not fit.
pub(super) fn finish(y: Tensor, bias: &Tensor, residual: Option<&Tensor>, bounds: Bounds) -> Result<Tensor> {
    match residual {
        Some(residual) => y.inplace_op3(bias, residual, &BiasActivation(bounds))?,
        None => y.inplace_op2(bias, &BiasActivation(bounds))?,
    }
    Ok(y)
}

struct BiasActivation(Bounds);

impl BiasActivation {
    fn run(
        &self,
        y: &mut CudaStorage,
        y_l: &Layout,
        bias: (&CudaStorage, &Layout),
        residual: Option<(&CudaStorage, &Layout)>,
    ) -> Result<()> {
        const OP: &str = "bias-activation";
        let channels = y_l.dims().last().copied().unwrap_or(0);
        let eights = eights(OP, y_l.shape().elem_count(), channels)?;
        if bias.1.dims() != [channels] || residual.is_some_and(|(_, r)| r.dims() != y_l.dims()) {
            bail!("{OP}: bias {:?} and residual do not fit {:?}", bias.1.dims(), y_l.dims());
        }
        let (at, numbers) = pointer_mut(OP, y, y_l)?;
        let residual = match residual.map(|(storage, layout)| pointer(OP, storage, layout)).transpose()? {
            Some((pointer, its)) if its == numbers => Argument::At(pointer),
            Some((_, its)) => bail!("{OP}: a residual of type {} for a tensor of type {}", its.name(), numbers.name()),
            None => Argument::Null,
        };
        let bias = f32_pointer(OP, bias.0, bias.1)?;
        let kernel = named(["layer_finish_f32", "layer_finish_f16", "layer_finish_bf16"], numbers);
        let (low, high) = self.0;
        let arguments = [at.into(), bias.into(), residual, channels.into(), eights.into(), low.into(), high.into()];
        launch(y.device(), MODULE, kernel, gpu::Shape::flat(eights), &arguments)
    }
}

impl InplaceOp2 for BiasActivation {
    fn name(&self) -> &'static str {
        "bias-activation"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        no_cpu("bias-activation")
    }

    fn cuda_fwd(&self, y: &mut CudaStorage, y_l: &Layout, bias: &CudaStorage, bias_l: &Layout) -> Result<()> {
        self.run(y, y_l, (bias, bias_l), None)
    }
}

impl InplaceOp3 for BiasActivation {
    fn name(&self) -> &'static str {
        "bias-residual-activation"
    }

    fn cpu_fwd(
        &self,
        _: &mut CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<()> {
        no_cpu("bias-residual-activation")
    }

    fn cuda_fwd(
        &self,
        y: &mut CudaStorage,
        y_l: &Layout,
        bias: &CudaStorage,
        bias_l: &Layout,
        residual: &CudaStorage,
        residual_l: &Layout,
    ) -> Result<()> {
        self.run(y, y_l, (bias, bias_l), Some((residual, residual_l)))
    }
}

/// (x, scale, shift) → clamp(x · scale + shift), scale and shift (C) f32.
pub(super) struct ScaleShift(pub Bounds);

impl CustomOp3 for ScaleShift {
    fn name(&self) -> &'static str {
        "scale-shift"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        no_cpu(self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_l: &Layout,
        scale: &CudaStorage,
        scale_l: &Layout,
        shift: &CudaStorage,
        shift_l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let channels = x_l.dims().last().copied().unwrap_or(0);
        let eights = eights(self.name(), x_l.shape().elem_count(), channels)?;
        let (from, numbers) = pointer(self.name(), x, x_l)?;
        let (scale, shift) = (f32_pointer(self.name(), scale, scale_l)?, f32_pointer(self.name(), shift, shift_l)?);
        let out = KernelOutput::new(x.device(), x_l.shape().clone(), numbers)?;
        let kernel = named(["layer_scale_shift_f32", "layer_scale_shift_f16", "layer_scale_shift_bf16"], numbers);
        let mut arguments: Vec<Argument> = [from, scale, shift, out.pointer()].map(Argument::from).into();
        arguments.extend([channels.into(), eights.into(), self.0.0.into(), self.0.1.into()] as [Argument; 4]);
        launch(x.device(), MODULE, kernel, gpu::Shape::flat(eights), &arguments)?;
        Ok(out.parts())
    }
}

/// (x, weights, bias) → clamp(depthwise convolution + bias): weights (k², C) f32, bias (C) f32.
pub(super) struct Depthwise {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub bounds: Bounds,
}

impl CustomOp3 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise convolution"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        no_cpu(self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_l: &Layout,
        weights: &CudaStorage,
        weights_l: &Layout,
        bias: &CudaStorage,
        bias_l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (n, h, w, channels) = x_l.shape().dims4()?;
        let count = |side| window_count(self.name(), side, self.kernel, self.stride, self.padding);
        let (out_h, out_w) = (count(h)?, count(w)?);
        if weights_l.dims() != [self.kernel * self.kernel, channels] || bias_l.dims() != [channels] {
            bail!("{}: weights {:?} do not fit {channels} channels", self.name(), weights_l.dims());
        }
        let eights = eights(self.name(), n * out_h * out_w * channels, channels)?;
        let (from, numbers) = pointer(self.name(), x, x_l)?;
        let weights = f32_pointer(self.name(), weights, weights_l)?;
        let bias = f32_pointer(self.name(), bias, bias_l)?;
        let out = KernelOutput::new(x.device(), (n, out_h, out_w, channels).into(), numbers)?;
        let kernel = named(["layer_depthwise_f32", "layer_depthwise_f16", "layer_depthwise_bf16"], numbers);
        let mut arguments: Vec<Argument> = [from, weights, bias, out.pointer()].map(Argument::from).into();
        let sizes = [channels, h, w, self.kernel, self.stride, self.padding, out_h, out_w];
        arguments.extend(sizes.map(Argument::from));
        arguments.extend([eights.into(), self.bounds.0.into(), self.bounds.1.into()] as [Argument; 3]);
        launch(x.device(), MODULE, kernel, gpu::Shape::flat(eights), &arguments)?;
        Ok(out.parts())
    }
}

/// Maximum over square windows.
pub(super) struct MaxPool {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, x_l: &Layout) -> Result<(CudaStorage, Shape)> {
        let (n, h, w, channels) = x_l.shape().dims4()?;
        let count = |side| window_count(self.name(), side, self.kernel, self.stride, self.padding);
        let (out_h, out_w) = (count(h)?, count(w)?);
        let eights = eights(self.name(), n * out_h * out_w * channels, channels)?;
        let (from, numbers) = pointer(self.name(), x, x_l)?;
        let out = KernelOutput::new(x.device(), (n, out_h, out_w, channels).into(), numbers)?;
        let kernel = named(["layer_max_pool_f32", "layer_max_pool_f16", "layer_max_pool_bf16"], numbers);
        let mut arguments: Vec<Argument> = vec![from.into(), out.pointer().into()];
        let sizes = [channels, h, w, self.kernel, self.stride, self.padding, out_h, out_w];
        arguments.extend(sizes.map(Argument::from));
        arguments.push(eights.into());
        launch(x.device(), MODULE, kernel, gpu::Shape::flat(eights), &arguments)?;
        Ok(out.parts())
    }
}

/// Mean over all pixels: (N, H, W, C) → (N, C).
pub(super) struct Average;

impl CustomOp1 for Average {
    fn name(&self) -> &'static str {
        "global average"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, x_l: &Layout) -> Result<(CudaStorage, Shape)> {
        let (n, h, w, channels) = x_l.shape().dims4()?;
        let eights = eights(self.name(), n * channels, channels)?;
        let (from, numbers) = pointer(self.name(), x, x_l)?;
        let out = KernelOutput::new(x.device(), (n, channels).into(), numbers)?;
        let kernel = named(["layer_average_f32", "layer_average_f16", "layer_average_bf16"], numbers);
        let arguments = [from.into(), out.pointer().into(), channels.into(), (h * w).into(), eights.into()];
        launch(x.device(), MODULE, kernel, gpu::Shape::flat(eights), &arguments)?;
        Ok(out.parts())
    }
}
