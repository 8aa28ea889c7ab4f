//! Which instructions the kernels use.

use std::sync::OnceLock;

/// Lowers the level for the whole process, for tests and for finding faults: `portable`, `avx2` or `avx512`.
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
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 3] = [Level::Portable, Level::Avx2, Level::Avx512];

    /// The name in messages and in [`VARIABLE`].
    pub const fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
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
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 => false,
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
