//! Starting kernels: memory, arguments and shapes, without a word about who runs them.

use super::GpuError;

/// Numbers that tensors on a device hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    F32,
    F16,
    Bf16,
}

impl ElementType {
    /// The ending of a kernel's name, and the name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "f32",
            ElementType::F16 => "f16",
            ElementType::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            ElementType::F32 => 4,
            ElementType::F16 | ElementType::Bf16 => 2,
        }
    }
}

/// How the three channels of a model's input lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// (3, height, width), as on the CPU.
    Planar,
    /// (height, width, 3), as tensor cores want it.
    Interleaved,
}

impl Layout {
    /// Distance of two channels of a pixel and of two pixels of a channel, in numbers.
    pub fn strides(self, width: usize, height: usize) -> (i32, i32) {
        match self {
            Layout::Planar => ((width * height) as i32, 1),
            Layout::Interleaved => (1, 3),
        }
    }
}

/// A place in a launcher's memory; what the numbers mean is the launcher's own business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    pub memory: u64,
    /// Bytes.
    pub offset: u64,
}

impl Pointer {
    /// `bytes` further on.
    pub fn plus(self, bytes: usize) -> Self {
        Self { offset: self.offset + bytes as u64, ..self }
    }
}

/// An argument of a kernel, of the very type that the kernel has there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    At(Pointer),
    /// A pointer to nothing.
    Null,
    I32(i32),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl From<Pointer> for Argument {
    fn from(pointer: Pointer) -> Self {
        Argument::At(pointer)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Argument::I32(value)
    }
}

impl From<usize> for Argument {
    /// As the `int` that sizes are in kernels.
    fn from(value: usize) -> Self {
        Argument::I32(i32::try_from(value).expect("sizes of pictures and sounds were validated to fit"))
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Argument::U64(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Argument::F32(value)
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Self {
        Argument::F64(value)
    }
}

/// Blocks of a launch, threads of a block, and the dynamic shared memory of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes.
    pub shared: u32,
}

/// Dynamic shared memory that every device gives a block without being asked, bytes.
pub const SHARED_BYTES: usize = 48 << 10;

/// Most blocks of a launch in y and z.
pub const GRID_SIDE: usize = 65_535;

impl Shape {
    /// `grid` blocks of `threads`.
    pub fn new(grid: [usize; 3], threads: usize) -> Self {
        let count = |n: usize| u32::try_from(n).expect("a launch has fewer blocks than 2^32");
        Self { grid: grid.map(count), block: [count(threads), 1, 1], shared: 0 }
    }

    /// One thread for each of `count`, 256 a block.
    pub fn flat(count: u64) -> Self {
        Self::new([count.div_ceil(256) as usize, 1, 1], 256)
    }

    /// With `bytes` of dynamic shared memory.
    pub fn with_shared(self, bytes: usize) -> Self {
        Self { shared: u32::try_from(bytes).expect("shared memory is small"), ..self }
    }
}

/// Who runs kernels: memory of its own, and an order in which all it is told happens.
pub trait Launcher {
    /// Memory, given back when dropped.
    type Memory;

    /// Takes memory. Its content is not defined.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    fn memory(&mut self, bytes: usize) -> Result<Self::Memory, GpuError>;

    /// Where `memory` begins.
    fn pointer(&self, memory: &Self::Memory) -> Pointer;

    /// Writes tables once, at the start of `memory`, and waits for it.
    ///
    /// # Errors
    /// When the device fails.
    fn write(&mut self, memory: &Self::Memory, data: &[u8]) -> Result<(), GpuError>;

    /// Brings over what a batch needs: `fill` writes all `bytes` of it to host memory, and the result says where it will
    /// be when the launches after this run. It stays until the upload after the next.
    ///
    /// # Errors
    /// When the device fails or has no memory left.
    fn upload(&mut self, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<Pointer, GpuError>;

    /// Starts `kernel` after everything started before it.
    ///
    /// # Errors
    /// When the device fails; such a fault may show in a later call.
    fn launch(&mut self, kernel: &'static str, shape: Shape, arguments: &[Argument]) -> Result<(), GpuError>;
}

/// A group of kernels that is compiled as one source. Each room that has kernels defines one; a
/// [`Gpu`](super::context::Gpu) is opened with all that will run on it.
#[derive(Clone, Copy, Debug)]
pub struct KernelModule {
    /// Name under which candle caches the compiled module.
    pub name: &'static str,
    /// Returns the CUDA source: the prelude and every kernel.
    pub source: fn() -> String,
    /// Names of all kernels in `source`.
    pub kernels: &'static [&'static str],
}

/// Memory that grows to what it is asked for, and is kept.
#[derive(Debug)]
pub struct GrowingBuffer<M> {
    memory: Option<M>,
    bytes: usize,
}

impl<M> Default for GrowingBuffer<M> {
    fn default() -> Self {
        Self { memory: None, bytes: 0 }
    }
}

impl<M> GrowingBuffer<M> {
    /// At least `bytes`. What was in it is lost when it grows.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    pub fn take<L: Launcher<Memory = M>>(&mut self, launcher: &mut L, bytes: usize) -> Result<Pointer, GpuError> {
        if self.memory.is_none() || self.bytes < bytes {
            // Given back first, so that both need not fit at once.
            self.memory = None;
            self.memory = Some(launcher.memory(bytes)?);
            self.bytes = bytes;
        }
        Ok(launcher.pointer(self.memory.as_ref().expect("it was taken a moment ago")))
    }
}

/// A number that a device reads as it lies in memory.
pub trait Plain: Copy {
    /// Appends the numbers' bytes.
    fn append(values: &[Self], to: &mut Vec<u8>);
}

macro_rules! plain {
    ($($number:ty),*) => {$(
        impl Plain for $number {
            fn append(values: &[Self], to: &mut Vec<u8>) {
                to.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
            }
        }
    )*};
}

plain!(i32, u32, u64, f32, f64);

/// Puts numbers into memory of their own.
///
/// # Errors
/// When the device fails or has no memory left.
pub fn table<L: Launcher, T: Plain>(launcher: &mut L, values: &[T]) -> Result<L::Memory, GpuError> {
    let mut bytes = Vec::with_capacity(size_of_val(values));
    T::append(values, &mut bytes);
    let memory = launcher.memory(bytes.len().max(1))?;
    launcher.write(&memory, &bytes)?;
    Ok(memory)
}
