//! Which instructions the kernels use.

use std::sync::OnceLock;

use super::quantise::Range;

/// Lowers the level for the whole process, for tests and for finding faults: `portable`, `avx2`, `avx512`,
/// `avx512_vnni` or `avx512_bf16`.
pub const VARIABLE: &str = "TOUCHLINE_CPU_LEVEL";

/// An instruction set that kernels are compiled for, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of the target has; on aarch64 that is NEON.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F.
    Avx512,
    /// The same with BW and AVX512_VNNI: products of four bytes.
    Avx512Vnni,
    /// The same and AVX512_BF16: products of pairs.
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

    /// Whether its kernels keep 28 sums in registers.
    pub(super) fn is_wide(self, precision: Precision) -> bool {
        match precision {
            Precision::F32 => self >= Level::Avx512,
            Precision::Bf16 => self == Level::Avx512Bf16,
            Precision::Int8 => self >= Level::Avx512Vnni,
        }
    }

    /// The highest level that this processor has and [`VARIABLE`] allows; looked up once. A value that names no level is
    /// as good as none.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let wish = std::env::var(VARIABLE).ok();
            let most = Level::ALL.into_iter().find(|level| wish.as_deref() == Some(level.name()));
            let usable = |level: &Level| level.is_there() && most.is_none_or(|most| *level <= most);
            Level::ALL.into_iter().rev().find(usable).unwrap_or(Level::Portable)
        })
    }
}

/// The numbers that a network computes with on the CPU. Its input and output are `f32` in any case, and so are its sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    /// Weights and activations as bf16: half the memory and twice the products where the processor has them.
    Bf16,
    /// Weights as whole numbers of eight bits, one unit a channel; activations as bytes, one unit a value: a quarter of the
    /// memory. Wants the range of every value, measured beforehand: see [`super::Range`].
    Int8,
}

impl Precision {
    /// All of them, most exact first.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// The name in messages and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }

    /// Values in a word of 4 bytes.
    pub(super) const fn per_word(self) -> usize {
        match self {
            Precision::F32 => 1,
            Precision::Bf16 => 2,
            Precision::Int8 => 4,
        }
    }

    /// What is fastest at a level and as good as `f32`: bf16 only with instructions for it.
    pub const fn fastest(level: Level) -> Self {
        match level {
            Level::Avx512Bf16 => Precision::Bf16,
            _ => Precision::F32,
        }
    }
}

/// A precision with what it wants to know of a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arithmetic<'a> {
    F32,
    Bf16,
    /// With the ranges of every value of the network, channel by channel, in the order in which its graph is made: see
    /// [`super::Observed::ranges`].
    Int8(&'a [Vec<Range>]),
}

impl Arithmetic<'_> {
    pub const fn precision(self) -> Precision {
        match self {
            Arithmetic::F32 => Precision::F32,
            Arithmetic::Bf16 => Precision::Bf16,
            Arithmetic::Int8(_) => Precision::Int8,
        }
    }
}
