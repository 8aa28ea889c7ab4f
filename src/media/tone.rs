//! Maps HDR pictures to SDR: BT.709 colours, the gamma of BT.1886, and rolled-off highlights.
//!
//! The input is the small RGB picture after the converters. Its values are still coded as in the stream: PQ (SMPTE ST 2084) or
//! HLG (ARIB STD-B67), both as in ITU-R BT.2100. The EETF of ITU-R BT.2390-10, section 5.4.1, maps 0 to 1000 cd/m² onto a display
//! of 203 cd/m², which is HDR's reference white (ITU-R BT.2408, table 1). It is applied to each channel in BT.2020.
//!
//! The values have 16 bits. Eight are too few for PQ: one step in dark areas is several steps of SDR, and dithering would be noise
//! for a model.

use std::sync::OnceLock;

/// The transfer function of a picture's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hdr {
    /// Perceptual quantizer (SMPTE ST 2084).
    Pq,
    /// Hybrid log-gamma (ARIB STD-B67).
    Hlg,
}

/// HDR's reference white and the peak of the SDR display that is mapped to, cd/m².
const WHITE: f64 = 203.0;

/// The brightest light that is not clipped, cd/m²: the usual peak of mastering displays, and HLG's nominal peak.
const PEAK: f64 = 1000.0;

/// The gamma of an SDR display (ITU-R BT.1886, with a black of 0).
const GAMMA: f64 = 2.4;

/// Linear BT.2020 to linear BT.709 (ITU-R BT.2087-0, section 2).
const TO_BT709: [[f32; 3]; 3] = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]];

/// Luminance of linear BT.2020.
const LUMA: [f32; 3] = [0.2627, 0.6780, 0.0593];

/// PQ code 0..=1 to cd/m² (BT.2100, table 4).
fn pq_to_light(code: f64) -> f64 {
    let (m1, m2) = (2610.0 / 16384.0, 2523.0 / 4096.0 * 128.0);
    let (c1, c2, c3) = (3424.0 / 4096.0, 2413.0 / 4096.0 * 32.0, 2392.0 / 4096.0 * 32.0);
    let power = code.max(0.0).powf(1.0 / m2);
    10_000.0 * ((power - c1).max(0.0) / (c2 - c3 * power)).powf(1.0 / m1)
}

/// cd/m² to PQ code 0..=1.
fn light_to_pq(light: f64) -> f64 {
    let (m1, m2) = (2610.0 / 16384.0, 2523.0 / 4096.0 * 128.0);
    let (c1, c2, c3) = (3424.0 / 4096.0, 2413.0 / 4096.0 * 32.0, 2392.0 / 4096.0 * 32.0);
    let power = (light.max(0.0) / 10_000.0).powf(m1);
    ((c1 + c2 * power) / (1.0 + c3 * power)).powf(m2)
}

/// HLG code 0..=1 to the light of the scene, 0..=1 (BT.2100, table 5).
fn hlg_to_scene(code: f64) -> f64 {
    let (a, b, c) = (0.178_832_77, 0.284_668_92, 0.559_910_73);
    if code <= 0.5 { code * code / 3.0 } else { (((code - c) / a).exp() + b) / 12.0 }
}

/// cd/m² to multiples of SDR white: unchanged up to the knee, then the spline of BT.2390.
fn roll_off(light: f64) -> f64 {
    let (peak, most) = (light_to_pq(PEAK), light_to_pq(WHITE));
    let (most, code) = (most / peak, (light_to_pq(light) / peak).min(1.0));
    let knee = 1.5 * most - 0.5;
    let code = if code < knee {
        code
    } else {
        let t = (code - knee) / (1.0 - knee);
        let (t2, t3) = (t * t, t * t * t);
        (2.0 * t3 - 3.0 * t2 + 1.0) * knee + (t3 - 2.0 * t2 + t) * (1.0 - knee) + (-2.0 * t3 + 3.0 * t2) * most
    };
    pq_to_light(code * peak) / WHITE
}

/// Look-up tables, computed once.
struct Tables {
    /// PQ code of 16 bits to rolled-off light, 1 is SDR white.
    pq: Vec<f32>,
    /// HLG code of 16 bits to the light of the scene.
    hlg: Vec<f32>,
    /// Luminance of the scene to the gain of HLG's OOTF for 1000 cd/m² (gamma 1.2), in cd/m².
    ootf: Vec<f32>,
    /// Square root of light over [`PEAK`] to rolled-off light.
    roll_off: Vec<f32>,
    /// Light to an SDR code.
    sdr: Vec<u8>,
}

const STEPS: usize = 4096;

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let step = |i: usize| i as f64 / (STEPS - 1) as f64;
        Tables {
            pq: (0..=u16::MAX).map(|code| roll_off(pq_to_light(f64::from(code) / 65_535.0)) as f32).collect(),
            hlg: (0..=u16::MAX).map(|code| hlg_to_scene(f64::from(code) / 65_535.0) as f32).collect(),
            ootf: (0..STEPS).map(|i| (PEAK * step(i).powf(0.2)) as f32).collect(),
            roll_off: (0..STEPS).map(|i| roll_off(PEAK * step(i) * step(i)) as f32).collect(),
            // Fine enough for the dark end, where a code is a ten-thousandth of the light.
            sdr: (0..=65_535u32).map(|i| (255.0 * (f64::from(i) / 65_535.0).powf(1.0 / GAMMA)).round() as u8).collect(),
        }
    })
}

/// Maps packed RGB8 to SDR in place. `is_wide`: the colours are those of BT.2020.
pub fn to_sdr(rgb: &mut [u8], hdr: Hdr, is_wide: bool) {
    let tables = tables();
    for pixel in rgb.chunks_exact_mut(3) {
        let code = [pixel[0], pixel[1], pixel[2]].map(|code| u16::from(code) * 257);
        pixel.copy_from_slice(&tables.pixel(code, hdr, is_wide));
    }
}

/// Maps packed ARGB with 16 bits per value, in native byte order, and appends RGB8 to `to`. Without `hdr` it only reduces the depth.
pub fn deep_to_sdr(argb: &[u8], hdr: Option<(Hdr, bool)>, to: &mut Vec<u8>) {
    let tables = tables();
    for pixel in argb.chunks_exact(8) {
        let code = [2, 4, 6].map(|at| u16::from_ne_bytes([pixel[at], pixel[at + 1]]));
        to.extend(match hdr {
            Some((hdr, is_wide)) => tables.pixel(code, hdr, is_wide),
            None => code.map(|code| (code >> 8) as u8),
        });
    }
}

impl Tables {
    fn pixel(&self, code: [u16; 3], hdr: Hdr, is_wide: bool) -> [u8; 3] {
        let at = |table: &[f32], place: f32| table[((place * (STEPS - 1) as f32 + 0.5) as usize).min(STEPS - 1)];
        let code = code.map(usize::from);
        let light = match hdr {
            Hdr::Pq => code.map(|code| self.pq[code]),
            Hdr::Hlg => {
                let scene = code.map(|code| self.hlg[code]);
                let gain = at(&self.ootf, scene.iter().zip(LUMA).map(|(light, part)| light * part).sum::<f32>());
                scene.map(|light| at(&self.roll_off, (light * gain / PEAK as f32).sqrt()))
            }
        };
        let light = if is_wide {
            TO_BT709.map(|row| row.iter().zip(light).map(|(part, light)| part * light).sum::<f32>())
        } else {
            light
        };
        light.map(|light| self.sdr[(light.clamp(0.0, 1.0) * 65_535.0 + 0.5) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(code: [u8; 3], hdr: Hdr, is_wide: bool) -> [u8; 3] {
        let mut pixel = code;
        to_sdr(&mut pixel, hdr, is_wide);
        pixel
    }

    #[test]
    fn codes_match_the_recommendations() {
        // BT.2408-7, table 1: 203 cd/m² is PQ 58 %, and HLG 75 % on a display of 1000 cd/m²; BT.2100: PQ 1 is 10,000 cd/m².
        assert!((light_to_pq(203.0) - 0.58).abs() < 0.001, "{}", light_to_pq(203.0));
        assert!((pq_to_light(1.0) - 10_000.0).abs() < 1e-6);
        let white = hlg_to_scene(0.75);
        assert!((PEAK * white.powf(1.2) - 203.0).abs() < 1.0, "{}", PEAK * white.powf(1.2));
        // BT.2100, table 5: half the code is a twelfth of the light.
        assert!((hlg_to_scene(0.5) - 1.0 / 12.0).abs() < 1e-9 && (hlg_to_scene(1.0) - 1.0).abs() < 1e-6);
        for light in [0.01, 1.0, 100.0, 4000.0] {
            assert!((pq_to_light(light_to_pq(light)) / light - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn the_curve_keeps_dark_values_and_rolls_off_bright_ones() {
        for light in [0.1, 1.0, 10.0, 50.0] {
            assert!((roll_off(light) / (light / WHITE) - 1.0).abs() < 1e-6, "{light}");
        }
        let lights: Vec<f64> = (0..=200).map(|i| f64::from(i) * 10.0).collect();
        assert!(lights.windows(2).all(|two| roll_off(two[0]) <= roll_off(two[1])), "the curve never falls");
        assert!((roll_off(PEAK) - 1.0).abs() < 1e-6 && (roll_off(9000.0) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn grays_stay_gray_and_sdr_colours_are_restored() {
        // Diffuse white.
        for (code, hdr) in [(148, Hdr::Pq), (191, Hdr::Hlg)] {
            let [r, g, b] = mapped([code; 3], hdr, true);
            assert!(r.abs_diff(g) <= 1 && g.abs_diff(b) <= 1, "{r} {g} {b}");
            assert!(r >= 225, "{hdr:?}: {r}");
        }
        assert_eq!(mapped([0; 3], Hdr::Pq, true), [0; 3]);
        // BT.709's red of 203 cd/m² is (127.4, 14.0, 3.3) in linear BT.2020 (inverse of BT.2087): its PQ codes.
        let red = [127.4, 14.0, 3.3].map(|light| (255.0 * light_to_pq(light)).round() as u8);
        let [r, g, b] = mapped(red, Hdr::Pq, true);
        assert!(r >= 220 && g <= 40 && b <= 40, "{r} {g} {b}");
    }

    #[test]
    fn pixels_match_the_reference() {
        // 16-bit code, SDR from PQ, SDR from HLG, computed by tests/reference/tone.py.
        let reference: [([u16; 3], [u8; 3], [u8; 3]); 13] = [
            ([0, 0, 0], [0, 0, 0], [0, 0, 0]),
            ([6553, 6553, 6553], [17, 17, 17], [29, 29, 29]),
            ([16383, 16383, 16383], [55, 55, 55], [72, 72, 72]),
            ([24000, 24000, 24000], [101, 101, 101], [105, 105, 105]),
            ([32767, 32767, 32767], [184, 183, 183], [143, 143, 143]),
            ([38010, 38010, 38010], [230, 230, 230], [169, 169, 169]),
            ([49151, 49151, 49151], [255, 255, 255], [230, 230, 230]),
            ([65535, 65535, 65535], [255, 255, 255], [255, 255, 255]),
            ([36000, 22000, 15000], [255, 25, 15], [174, 90, 65]),
            ([28000, 34700, 20700], [36, 211, 28], [109, 153, 89]),
            ([19400, 13700, 38000], [42, 24, 241], [86, 57, 155]),
            ([41000, 30000, 30500], [255, 135, 157], [204, 126, 135]),
            ([9000, 12000, 14000], [0, 37, 45], [29, 53, 60]),
        ];
        for (code, from_pq, from_hlg) in reference {
            let argb: Vec<u8> = [&[u16::MAX][..], &code].concat().into_iter().flat_map(u16::to_ne_bytes).collect();
            for (hdr, expected) in [(Hdr::Pq, from_pq), (Hdr::Hlg, from_hlg)] {
                let mut rgb = Vec::new();
                deep_to_sdr(&argb, Some((hdr, true)), &mut rgb);
                let is_near = rgb.iter().zip(expected).all(|(ours, theirs)| ours.abs_diff(theirs) <= 1);
                assert!(rgb.len() == 3 && is_near, "{hdr:?} {code:?}: {rgb:?}, not {expected:?}");
            }
        }
        let mut rgb = Vec::new();
        deep_to_sdr(&[0; 8], None, &mut rgb);
        assert_eq!(rgb, [0; 3]);
    }
}
