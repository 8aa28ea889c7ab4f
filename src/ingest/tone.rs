//! HDR pictures as the models know pictures: BT.709 colours and gamma, highlights rolled off.
//!
//! Works on the small RGB pictures that come out of the converters, whose numbers are still coded as the stream has them: PQ
//! (SMPTE ST 2084) or HLG (ARIB STD-B67), both as in ITU-R BT.2100. Diffuse white is 203 cd/m² (ITU-R BT.2408, table 1) and
//! becomes the white of SDR; what is brighter is rolled off by the EETF of ITU-R BT.2390-10, section 5.4.1.

use std::sync::OnceLock;

/// How the numbers of a picture are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hdr {
    Pq,
    Hlg,
}

/// Diffuse white, cd/m².
const WHITE: f64 = 203.0;

/// The brightest that is rolled off and not clipped, cd/m²: what nearly everything is graded for, and HLG's nominal peak.
const PEAK: f64 = 1000.0;

/// What SDR pictures are shown with: between the camera's curve (BT.709, about 2.0) and the display's (BT.1886, 2.4).
const GAMMA: f64 = 2.2;

/// Brightness of the SDR white that is reached at [`PEAK`], as a multiple of [`WHITE`]. At 1 the curve would bend at half of
/// diffuse white, and pictures that have nothing brighter would look dull.
const ROOM: f64 = 1.25;

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

/// cd/m² to multiples of SDR white: as they are up to the knee, then the spline of BT.2390.
fn roll_off(light: f64) -> f64 {
    let (peak, most) = (light_to_pq(PEAK), light_to_pq(WHITE * ROOM));
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

/// The numbers that a pixel takes, worked out once.
struct Tables {
    /// PQ code to rolled-off light, 1 is SDR white.
    pq: [f32; 256],
    /// HLG code to the light of the scene.
    hlg: [f32; 256],
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
            pq: std::array::from_fn(|code| roll_off(pq_to_light(code as f64 / 255.0)) as f32),
            hlg: std::array::from_fn(|code| hlg_to_scene(code as f64 / 255.0) as f32),
            ootf: (0..STEPS).map(|i| (PEAK * step(i).powf(0.2)) as f32).collect(),
            roll_off: (0..STEPS).map(|i| roll_off(PEAK * step(i) * step(i)) as f32).collect(),
            // Fine enough for the dark end, where a code is a ten-thousandth of the light.
            sdr: (0..=65_535u32).map(|i| (255.0 * (f64::from(i) / 65_535.0).powf(1.0 / GAMMA)).round() as u8).collect(),
        }
    })
}

/// Maps packed RGB8 in place. `is_wide`: its colours are those of BT.2020.
pub fn to_sdr(rgb: &mut [u8], hdr: Hdr, is_wide: bool) {
    let tables = tables();
    let at = |table: &[f32], place: f32| table[((place * (STEPS - 1) as f32 + 0.5) as usize).min(STEPS - 1)];
    for pixel in rgb.chunks_exact_mut(3) {
        let code = [pixel[0], pixel[1], pixel[2]].map(usize::from);
        let light = match hdr {
            Hdr::Pq => code.map(|code| tables.pq[code]),
            Hdr::Hlg => {
                let scene = code.map(|code| tables.hlg[code]);
                let gain = at(&tables.ootf, scene.iter().zip(LUMA).map(|(light, part)| light * part).sum::<f32>());
                scene.map(|light| at(&tables.roll_off, (light * gain / PEAK as f32).sqrt()))
            }
        };
        let light = if is_wide {
            TO_BT709.map(|row| row.iter().zip(light).map(|(part, light)| part * light).sum::<f32>())
        } else {
            light
        };
        for (out, light) in pixel.iter_mut().zip(light) {
            *out = tables.sdr[(light.clamp(0.0, 1.0) * 65_535.0 + 0.5) as usize];
        }
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
    fn codes_are_those_of_the_recommendations() {
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
    fn the_curve_keeps_what_is_dark_and_rolls_off_what_is_bright() {
        for light in [0.1, 10.0, 50.0, 100.0] {
            assert!((roll_off(light) / (light / WHITE) - 1.0).abs() < 1e-6, "{light}");
        }
        let lights: Vec<f64> = (0..=200).map(|i| f64::from(i) * 10.0).collect();
        assert!(lights.windows(2).all(|two| roll_off(two[0]) <= roll_off(two[1])), "it never falls");
        assert!((roll_off(PEAK) - ROOM).abs() < 1e-6 && (roll_off(9000.0) - ROOM).abs() < 1e-6);
    }

    #[test]
    fn grays_stay_gray_and_colours_of_sdr_come_back() {
        // Diffuse white.
        for (code, hdr) in [(148, Hdr::Pq), (191, Hdr::Hlg)] {
            let [r, g, b] = mapped([code; 3], hdr, true);
            assert!(r.abs_diff(g) <= 1 && g.abs_diff(b) <= 1, "{r} {g} {b}");
            assert!(r >= 235, "{hdr:?}: {r}");
        }
        assert_eq!(mapped([0; 3], Hdr::Pq, true), [0; 3]);
        // BT.709's red of 203 cd/m² is (127.4, 14.0, 3.3) in linear BT.2020 (inverse of BT.2087): its PQ codes.
        let red = [127.4, 14.0, 3.3].map(|light| (255.0 * light_to_pq(light)).round() as u8);
        let [r, g, b] = mapped(red, Hdr::Pq, true);
        assert!(r >= 245 && g <= 30 && b <= 30, "{r} {g} {b}");
    }
}
