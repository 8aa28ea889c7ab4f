//! Starting kernels: memory, arguments and launch shapes, independent of the driver.

use super::GpuError;

/// The element type of tensors on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an `f32`.
    Bf16,
}

impl ElementType {
    /// The suffix of a kernel's name, and the name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "f32",
            ElementType::F16 => "f16",
            ElementType::Bf16 => "bf16",
        }
    }

    /// Size of an element, bytes.
    pub const fn bytes(self) -> usize {
        match self {
            ElementType::F32 => 4,
            ElementType::F16 | ElementType::Bf16 => 2,
        }
    }
}

/// The memory order of a model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// (3, height, width), as on the CPU.
    Planar,
    /// (height, width, 3), the order of tensor cores.
    Interleaved,
}

impl Layout {
    /// Distance between two channels of a pixel and between two pixels of a channel, in elements.
    pub fn strides(self, width: usize, height: usize) -> (i32, i32) {
        match self {
            Layout::Planar => ((width * height) as i32, 1),
            Layout::Interleaved => (1, 3),
        }
    }
}

/// An address in a launcher's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The block of memory; only the launcher can interpret it.
    pub memory: u64,
    /// Offset in the block, bytes.
    pub offset: u64,
}

impl Pointer {
    /// The address `bytes` later.
    pub fn plus(self, bytes: usize) -> Self {
        Self { offset: self.offset + bytes as u64, ..self }
    }
}

/// An argument of a kernel. Its type must be exactly the parameter's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer.
    At(Pointer),
    /// The null pointer.
    Null,
    /// `int`.
    I32(i32),
    /// `unsigned long long`.
    U64(u64),
    /// `float`.
    F32(f32),
    /// `double`.
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
    /// As `int`, which is the type of sizes in kernels.
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

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
}

/// Dynamic shared memory that every device grants a block without an opt-in, bytes.
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

/// Runs kernels: a device or, in tests, a program on the CPU. All calls take effect in order.
pub trait Launcher {
    /// A block of memory, freed when dropped.
    type Memory;

    /// Allocates memory. Its contents are undefined.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    fn memory(&mut self, bytes: usize) -> Result<Self::Memory, GpuError>;

    /// Where `memory` begins.
    fn pointer(&self, memory: &Self::Memory) -> Pointer;

    /// Copies `data` to the start of `memory`, and waits until that is done.
    ///
    /// # Errors
    /// When the device fails.
    fn write(&mut self, memory: &Self::Memory, data: &[u8]) -> Result<(), GpuError>;

    /// Uploads a batch: `fill` writes `bytes` bytes to host memory, which are copied to the returned address before any later
    /// launch runs. They stay valid until the upload after the next.
    ///
    /// # Errors
    /// When the device fails or has no memory left.
    fn upload(&mut self, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<Pointer, GpuError>;

    /// Launches `kernel`, which runs after everything launched before it.
    ///
    /// # Errors
    /// When the device fails. A fault of the kernel itself may surface in a later call.
    fn launch(&mut self, kernel: &'static str, shape: Shape, arguments: &[Argument]) -> Result<(), GpuError>;
}

/// A group of kernels that is compiled as one source. Each room that has kernels defines one; a `context::Gpu` is opened with
/// all that will run on it.
#[derive(Clone, Copy, Debug)]
pub struct KernelModule {
    /// Name under which candle caches the compiled module.
    pub name: &'static str,
    /// Returns the CUDA source: the prelude and every kernel.
    pub source: fn() -> String,
    /// Names of all kernels in `source`.
    pub kernels: &'static [&'static str],
}

/// Memory that grows on demand and is kept.
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
    /// Returns at least `bytes` of memory. The contents are lost when it grows.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    pub fn take<L: Launcher<Memory = M>>(&mut self, launcher: &mut L, bytes: usize) -> Result<Pointer, GpuError> {
        if self.memory.is_none() || self.bytes < bytes {
            // Freed first, so that both need not fit at once.
            self.memory = None;
            self.memory = Some(launcher.memory(bytes)?);
            self.bytes = bytes;
        }
        Ok(launcher.pointer(self.memory.as_ref().expect("allocated above")))
    }
}

/// A number that a device reads in the host's representation.
pub trait Plain: Copy {
    /// Appends the bytes of `values`.
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

/// Copies a table of numbers into newly allocated memory.
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
