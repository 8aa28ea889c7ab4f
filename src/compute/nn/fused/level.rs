//! Instruction sets of the CPU, and precisions.

use std::sync::OnceLock;

use super::quantise::Range;

/// Environment variable that lowers the instruction set of the whole process, for tests and diagnosis: `portable`, `avx2`, `avx512`,
/// `avx512_vnni` or `avx512_bf16`.
pub const VARIABLE: &str = "TOUCHLINE_CPU_LEVEL";

/// An instruction set that kernels are compiled for, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The baseline of the target; on aarch64 that includes NEON.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F.
    Avx512,
    /// Also AVX-512 BW and AVX512_VNNI: four byte products per instruction and lane.
    Avx512Vnni,
    /// Also AVX512_BF16: two bf16 products per instruction and lane.
    Avx512Bf16,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 5] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Vnni, Level::Avx512Bf16];

    /// The name in messages and in [`VARIABLE`].
    pub const fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512_vnni",
            Level::Avx512Bf16 => "avx512_bf16",
        }
    }

    /// Whether this processor has it.
    pub fn is_there(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => is_x86_feature_detected!("avx512f") && Level::Avx2.is_there(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => is_x86_feature_detected!("avx512bf16") && Level::Avx512Vnni.is_there(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => {
                let bytes = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw");
                bytes && Level::Avx512.is_there()
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => false,
        }
    }

    /// Whether kernels keep 28 sums in registers.
    pub(in crate::nn) fn is_wide(self, precision: Precision) -> bool {
        match precision {
            Precision::F32 => self >= Level::Avx512,
            Precision::Bf16 => self == Level::Avx512Bf16,
            Precision::Int8 => self >= Level::Avx512Vnni,
        }
    }

    /// The highest level that this processor has and [`VARIABLE`] allows, determined once. An unknown value of the variable
    /// is ignored.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let requested = std::env::var(VARIABLE).ok();
            let most = Level::ALL.into_iter().find(|level| requested.as_deref() == Some(level.name()));
            let usable = |level: &Level| level.is_there() && most.is_none_or(|most| *level <= most);
            Level::ALL.into_iter().rev().find(usable).unwrap_or(Level::Portable)
        })
    }
}

/// The precision of a network on the CPU. Input and output are always `f32`, and so are sums, except in int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// IEEE 754 single precision.
    F32,
    /// Weights and activations in bf16: half the memory, and twice the products per instruction where the processor has them.
    Bf16,
    /// Weights and activations as bytes, with a scale per channel: a quarter of the memory. Needs measured ranges of every
    /// activation; see [`super::Range`].
    Int8,
}

impl Precision {
    /// All precisions, most exact first.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// The name in messages and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }

    /// Values per word of 4 bytes.
    pub(in crate::nn) const fn per_word(self) -> usize {
        match self {
            Precision::F32 => 1,
            Precision::Bf16 => 2,
            Precision::Int8 => 4,
        }
    }

    /// The fastest precision at a level that is as accurate as `f32` in practice. Where the processor has instructions for bf16, products
    /// are measured once per process, because processors differ: Zen 5 multiplies bf16 at twice the rate of `f32`, Xeons at half of it.
    pub fn fastest(level: Level) -> Self {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 if super::speed::is_bf16_faster() => Precision::Bf16,
            _ => Precision::F32,
        }
    }
}

/// A precision with the parameters that it needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arithmetic<'a> {
    /// See [`Precision::F32`].
    F32,
    /// See [`Precision::Bf16`].
    Bf16,
    /// See [`Precision::Int8`]. Has the ranges of every value of the network, channel by channel, in graph order:
    /// [`super::Observed::ranges`].
    Int8(&'a [Vec<Range>]),
}

impl Arithmetic<'_> {
    /// The precision without its parameters.
    pub const fn precision(self) -> Precision {
        match self {
            Arithmetic::F32 => Precision::F32,
            Arithmetic::Bf16 => Precision::Bf16,
            Arithmetic::Int8(_) => Precision::Int8,
        }
    }
}
