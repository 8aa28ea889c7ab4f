//! An open GPU: candle's device, our kernels on its stream, and its staging memory.
//!
//! One stream does everything except uploads. Uploads use a second stream and alternate between two blocks of pinned memory,
//! so that the next batch is copied while this one computes; events order the two streams. Tensors that kernels write are
//! wrapped for candle without a copy.

#![allow(unsafe_code)]

mod machine;

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError, LaunchConfig, PinnedHostSlice,
    PushKernelArg, sys,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Shape as TensorShape, Storage, Tensor};

use super::launch::{Argument, ElementType, KernelModule, Launcher, Pointer, Shape};
use super::{GpuError, compile, libraries};
use machine::DeviceCount;
pub(crate) use machine::reset;
pub use machine::{all, check_capability, compiler_version, driver_version};

/// An open GPU: a context, a stream for kernels, a stream for uploads, and the kernels it can launch.
pub struct Gpu {
    device: CudaDevice,
    info: GpuInfo,
    modules: &'static [KernelModule],
    stream: Arc<CudaStream>,
    copies: Arc<CudaStream>,
    staging: [Option<Staging>; 2],
    next: usize,
}

/// Properties of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// The driver's number of it.
    pub ordinal: usize,
    /// Product name.
    pub name: String,
    /// Compute capability, (major, minor).
    pub capability: (i32, i32),
    /// Total memory, bytes.
    pub memory: usize,
}

/// One of the two blocks that uploads go through.
struct Staging {
    host: PinnedHostSlice<u8>,
    device: CudaSlice<u8>,
    /// Recorded after the copy to the device; then the host block may be written again.
    copied: CudaEvent,
    /// Recorded after the last launch that may read the device block; then it may be overwritten.
    read: CudaEvent,
}

impl Gpu {
    /// Opens a GPU with a context and streams of its own. Only kernels of `modules` can be launched on it.
    ///
    /// # Errors
    /// [`GpuError::Unusable`] naming what is missing and what to install or change.
    pub fn open(ordinal: usize, modules: &'static [KernelModule]) -> Result<Self, GpuError> {
        libraries::load()?;
        let at_start = |e: String| GpuError::at_start(ordinal, &e);
        let count = CudaContext::device_count_checked()?;
        if ordinal >= count {
            return Err(GpuError::no_such_device(ordinal, count));
        }
        let device = Device::new_cuda_with_stream(ordinal).map_err(|e| at_start(e.to_string()))?;
        let device = device.as_cuda_device().map_err(|e| at_start(e.to_string()))?.clone();
        let stream = device.cuda_stream();
        let context = stream.context().clone();
        let info = GpuInfo::of(&context).map_err(|e| at_start(format!("{e:?}")))?;
        check_capability(&info)?;
        // SAFETY: memory is allocated, used and freed on candle's one stream, in order, with one exception: the staging
        // blocks, whose two streams the events of `Staging` order. There is nothing left for cudarc's own events to order,
        // and they would cost two of them a tensor.
        unsafe { device.disable_event_tracking() };
        keep_memory(&context);
        let copies = context.new_stream().map_err(|e| at_start(format!("{e:?}")))?;
        Ok(Self { device, info, modules, stream, copies, staging: [None, None], next: 0 })
    }

    /// Compiles and loads every kernel of the modules that the GPU was opened with.
    ///
    /// # Errors
    /// [`GpuError::Unusable`] when NVRTC or the driver rejects a kernel.
    pub fn load_kernels(&self) -> Result<(), GpuError> {
        for module in self.modules {
            let ptx = compile::ptx(*module, self.info.capability)?;
            for kernel in module.kernels {
                let loaded = self.device.get_or_load_custom_func(kernel, module.name, ptx);
                loaded.map_err(|e| GpuError::at_start(self.info.ordinal, &e.to_string()))?;
            }
        }
        Ok(())
    }

    /// The device as candle's tensors take it.
    pub fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    /// The device as candle's CUDA backend takes it.
    pub fn cuda_device(&self) -> &CudaDevice {
        &self.device
    }

    /// Name, capability and memory.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// Waits until everything launched before has finished.
    ///
    /// # Errors
    /// The first fault of what was launched.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.stream.synchronize().map_err(fault)
    }

    /// Waits until everything launched before has finished, and returns the `bytes` bytes at `pointer`.
    ///
    /// # Errors
    /// The first fault of what was launched.
    ///
    /// # Panics
    /// Never; but `pointer` must be one that this GPU gave, with `bytes` behind it.
    pub fn read(&self, pointer: Pointer, bytes: usize) -> Result<Vec<u8>, GpuError> {
        let mut data = vec![0u8; bytes];
        // SAFETY: the caller's pointer comes from `memory`, `upload` or `output` of this GPU, and the copy is waited for
        // before `data` is looked at or dropped.
        unsafe {
            candle_core::cuda_backend::cudarc::driver::result::memcpy_dtoh_async(
                &mut data,
                pointer.memory + pointer.offset,
                self.stream.cu_stream(),
            )
        }
        .map_err(fault)?;
        self.wait()?;
        Ok(data)
    }

    /// The stream that kernels and candle's ops run on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Records an event on the stream, to measure the time between two.
    ///
    /// # Errors
    /// When the device fails.
    pub fn mark(&self) -> Result<CudaEvent, GpuError> {
        self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(fault)
    }

    /// Allocates a tensor that kernels will write. Turn it into a tensor with [`KernelOutput::tensor`] after they have been
    /// launched.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    pub fn output(&self, shape: impl Into<TensorShape>, numbers: ElementType) -> Result<KernelOutput, GpuError> {
        KernelOutput::new(&self.device, shape.into(), numbers).map_err(of_candle)
    }
}

/// Memory of a tensor that kernels will write.
pub struct KernelOutput {
    storage: CudaStorage,
    shape: TensorShape,
    pointer: Pointer,
}

impl KernelOutput {
    /// Allocates a tensor of `shape`.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn new(device: &CudaDevice, shape: TensorShape, numbers: ElementType) -> candle_core::Result<Self> {
        let (len, stream) = (shape.elem_count(), device.cuda_stream());
        macro_rules! take {
            ($number:ty) => {{
                // SAFETY: every number of it is written before it is read: callers start a kernel that fills it.
                let mut slice = unsafe { device.alloc::<$number>(len) }?;
                let address = slice.device_ptr_mut(&stream).0;
                (CudaStorage::wrap_cuda_slice(slice, device.clone()), address)
            }};
        }
        let (storage, address) = match numbers {
            ElementType::F32 => take!(f32),
            ElementType::F16 => take!(half::f16),
            ElementType::Bf16 => take!(half::bf16),
        };
        Ok(Self { storage, shape, pointer: Pointer { memory: address, offset: 0 } })
    }

    /// Address of the first element.
    pub fn pointer(&self) -> Pointer {
        self.pointer
    }

    /// Storage and shape, as a custom op returns them.
    pub fn parts(self) -> (CudaStorage, TensorShape) {
        (self.storage, self.shape)
    }

    /// As a tensor, without a copy.
    pub fn tensor(self) -> Tensor {
        Tensor::from_storage(Storage::Cuda(self.storage), self.shape, BackpropOp::none(), false)
    }
}

impl ElementType {
    /// candle's type.
    pub const fn dtype(self) -> DType {
        match self {
            ElementType::F32 => DType::F32,
            ElementType::F16 => DType::F16,
            ElementType::Bf16 => DType::BF16,
        }
    }

    /// The element type of candle's `dtype`, if kernels support it.
    pub const fn of_dtype(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(ElementType::F32),
            DType::F16 => Some(ElementType::F16),
            DType::BF16 => Some(ElementType::Bf16),
            _ => None,
        }
    }
}

/// Launches a kernel of `module` on candle's stream.
///
/// # Errors
/// When the device fails.
pub fn launch(
    device: &CudaDevice,
    module: KernelModule,
    kernel: &str,
    shape: Shape,
    arguments: &[Argument],
) -> candle_core::Result<()> {
    let failed = |e: GpuError| candle_core::Error::Msg(e.to_string());
    let context = device.cuda_stream().context().clone();
    let capability = context.compute_capability().map_err(|e| failed(fault(e)))?;
    let ptx = compile::ptx(module, capability).map_err(failed)?;
    let function = device.get_or_load_custom_func(kernel, module.name, ptx)?;
    let address = |argument: &Argument| match argument {
        Argument::At(pointer) => pointer.memory + pointer.offset,
        _ => 0,
    };
    let addresses: Vec<u64> = arguments.iter().map(address).collect();
    let mut builder = function.builder();
    for (argument, address) in arguments.iter().zip(&addresses) {
        match argument {
            Argument::At(_) | Argument::Null => builder.arg(address),
            Argument::I32(value) => builder.arg(value),
            Argument::U64(value) => builder.arg(value),
            Argument::F32(value) => builder.arg(value),
            Argument::F64(value) => builder.arg(value),
        };
    }
    let [grid, block] = [shape.grid, shape.block].map(|[x, y, z]| (x, y, z));
    let config = LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: shape.shared };
    // SAFETY: the kernels are ours, their arguments have the types that the tests check against the very sources, and what
    // they point to is as large as the sizes among them say; all of it lives until the stream is past the launch, since
    // memory is given back in the stream's order.
    unsafe { builder.launch(config) }.map_err(|e| failed(fault(e)))?;
    Ok(())
}

impl Launcher for Gpu {
    type Memory = CudaSlice<u8>;

    fn memory(&mut self, bytes: usize) -> Result<CudaSlice<u8>, GpuError> {
        // SAFETY: bytes have no invalid values, and who takes memory writes before it reads.
        unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(fault)
    }

    fn pointer(&self, memory: &CudaSlice<u8>) -> Pointer {
        Pointer { memory: memory.device_ptr(&self.stream).0, offset: 0 }
    }

    fn write(&mut self, memory: &CudaSlice<u8>, data: &[u8]) -> Result<(), GpuError> {
        let address = self.pointer(memory).memory;
        assert!(data.len() <= memory.len(), "a table is as long as its memory");
        // SAFETY: the memory is there and large enough, and nothing else uses it yet: it was taken for this table. The data
        // outlive the copy, which is waited for.
        unsafe {
            candle_core::cuda_backend::cudarc::driver::result::memcpy_htod_async(address, data, self.stream.cu_stream())
        }
        .map_err(fault)?;
        self.stream.synchronize().map_err(fault)
    }

    fn upload(&mut self, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<Pointer, GpuError> {
        // Every launch that reads the other block has been issued by now.
        if let Some(other) = &self.staging[1 - self.next] {
            other.read.record(&self.stream).map_err(fault)?;
        }
        let slot = &mut self.staging[self.next];
        self.next = 1 - self.next;
        if slot.as_ref().is_none_or(|staging| staging.device.len() < bytes) {
            // Freed first, so that both need not fit at once.
            *slot = None;
            *slot = Some(Staging::new(&self.stream, bytes.next_power_of_two().max(1 << 16)).map_err(fault)?);
        }
        let staging = slot.as_mut().expect("allocated above");
        staging.copied.synchronize().map_err(fault)?;
        let host = staging.host.as_mut_slice().map_err(fault)?;
        fill(&mut host[..bytes]);
        self.copies.wait(&staging.read).map_err(fault)?;
        let address = staging.device.device_ptr(&self.stream).0;
        // SAFETY: both blocks are `bytes` long at least. The pinned one is not written before `copied`, and not given back
        // before it either (see `Staging`); the device's is not in use: the copy waits for `read`.
        unsafe {
            candle_core::cuda_backend::cudarc::driver::result::memcpy_htod_async(
                address,
                &host[..bytes],
                self.copies.cu_stream(),
            )
        }
        .map_err(fault)?;
        staging.copied.record(&self.copies).map_err(fault)?;
        self.stream.wait(&staging.copied).map_err(fault)?;
        Ok(Pointer { memory: address, offset: 0 })
    }

    fn launch(&mut self, kernel: &'static str, shape: Shape, arguments: &[Argument]) -> Result<(), GpuError> {
        let Some(module) = self.modules.iter().find(|module| module.kernels.contains(&kernel)) else {
            return Err(GpuError::Refused(format!("kernel {kernel} is in no module of this GPU")));
        };
        launch(&self.device, *module, kernel, shape, arguments).map_err(of_candle)
    }
}

impl Staging {
    fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, DriverError> {
        let context = stream.context();
        let flags = Some(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        // SAFETY: bytes have no invalid values, and `upload` writes them before they are copied.
        let host = unsafe { context.alloc_pinned::<u8>(bytes) }?;
        // SAFETY: as above, on the device.
        let device = unsafe { stream.alloc::<u8>(bytes) }?;
        let (copied, read) = (context.new_event(flags)?, context.new_event(flags)?);
        // The upload stream must wait until this stream has allocated the block.
        read.record(stream)?;
        Ok(Self { host, device, copied, read })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Pinned memory is freed immediately, so a copy in progress must end first. A failed device copies nothing.
        let _ = self.copied.synchronize();
    }
}

impl GpuInfo {
    fn of(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        Ok(Self {
            ordinal: context.ordinal(),
            name: context.name()?,
            capability: context.compute_capability()?,
            memory: context.total_mem()?,
        })
    }
}

/// Lets the device's memory pool keep freed memory: otherwise every synchronisation would return it to the driver, and the
/// next batch would allocate it again.
fn keep_memory(context: &Arc<CudaContext>) {
    if !context.has_async_alloc() {
        return;
    }
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: the device is in use, `pool` receives a handle that lives as long as the device does, and the attribute is
    // read as the u64 it points to. A driver that refuses leaves everything as it was, only slower.
    unsafe {
        if sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()) == sys::CUresult::CUDA_SUCCESS {
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let _ = sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast());
        }
    }
}

/// Converts an error of the driver.
pub(crate) fn fault(error: DriverError) -> GpuError {
    GpuError::of_text(&format!("{error:?}"))
}

/// Converts an error of candle.
pub fn of_candle(error: candle_core::Error) -> GpuError {
    GpuError::of_text(&error.to_string())
}
