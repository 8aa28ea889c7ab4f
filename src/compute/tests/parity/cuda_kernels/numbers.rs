//! Numbers for tests.

use touchline_compute::gpu::ElementType;

/// A small generator of values in −1..1.
pub struct Noise(u32);

impl Noise {
    pub fn new(seed: u32) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// Largest absolute difference; infinite if one is NaN.
pub fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let difference = |(g, w): (&f32, &f32)| if (g - w).is_nan() { f32::INFINITY } else { (g - w).abs() };
    got.iter().zip(want).map(difference).fold(0.0, f32::max)
}

/// The bytes of numbers as f32.
pub fn unpacked(bytes: &[u8], numbers: ElementType) -> Vec<f32> {
    let halves = |to: fn(u16) -> f32| bytes.as_chunks::<2>().0.iter().map(|b| to(u16::from_le_bytes(*b))).collect();
    match numbers {
        ElementType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        ElementType::F16 => halves(|bits| half::f16::from_bits(bits).to_f32()),
        ElementType::Bf16 => halves(|bits| half::bf16::from_bits(bits).to_f32()),
    }
}

/// f32 as the bytes of numbers.
pub fn packed(values: &[f32], numbers: ElementType) -> Vec<u8> {
    let bytes = |v: &f32| match numbers {
        ElementType::F32 => v.to_le_bytes().to_vec(),
        ElementType::F16 => half::f16::from_f32(*v).to_le_bytes().to_vec(),
        ElementType::Bf16 => half::bf16::from_f32(*v).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}
