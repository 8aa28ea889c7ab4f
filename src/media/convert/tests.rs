use super::*;

/// One colour in planes with more bytes than pixels, in I420 and NV12. Returns the pixels.
fn converted(code: [u8; 3], from: (usize, usize), to: (usize, usize), matrix: Matrix, range: Range) -> Vec<u8> {
    let half = (from.0.div_ceil(2), from.1.div_ceil(2));
    let plane = |code: &[u8], width: usize, rows: usize| {
        let row: Vec<u8> = code.iter().copied().cycle().take(width).chain([7; 5]).collect();
        row.repeat(rows)
    };
    let luma = plane(&code[..1], from.0, from.1);
    let (cb, cr) = (plane(&code[1..2], half.0, half.1), plane(&code[2..], half.0, half.1));
    let both = plane(&code[1..], 2 * half.0, half.1);
    let mut pictures = [Vec::new(), Vec::new()];
    for (is_interleaved, out) in [false, true].into_iter().zip(&mut pictures) {
        let mut converter = Converter::new(Conversion { from, to, is_interleaved, matrix, range });
        let chroma = match is_interleaved {
            false => Chroma::Separate(Plane { data: &cb, stride: half.0 + 5 }, Plane { data: &cr, stride: half.0 + 5 }),
            true => Chroma::Interleaved(Plane { data: &both, stride: 2 * half.0 + 5 }),
        };
        // The second picture finds what the first one left.
        for _ in 0..2 {
            out.clear();
            converter.convert(Plane { data: &luma, stride: from.0 + 5 }, chroma, out).unwrap();
        }
    }
    assert_eq!(pictures[0], pictures[1]);
    std::mem::take(&mut pictures[0])
}

/// ITU-R BT.601, 709 and 2020 in floating point.
fn expected(code: [u8; 3], matrix: Matrix, range: Range) -> [f64; 3] {
    let (red, blue) = matrix.red_and_blue();
    let [y, cb, cr] = code.map(f64::from);
    let (y, cb, cr) = match range {
        Range::Limited => ((y - 16.0) / 219.0, (cb - 128.0) / 224.0, (cr - 128.0) / 224.0),
        Range::Full => (y / 255.0, (cb - 128.0) / 255.0, (cr - 128.0) / 255.0),
    };
    let (r, b) = (y + 2.0 * (1.0 - red) * cr, y + 2.0 * (1.0 - blue) * cb);
    [r, (y - red * r - blue * b) / (1.0 - red - blue), b].map(|value| (255.0 * value).clamp(0.0, 255.0))
}

#[test]
fn colours_are_those_of_the_recommendations() {
    let sizes = [((8, 8), (8, 8)), ((37, 23), (16, 10)), ((9, 5), (20, 5)), ((64, 64), (3, 1)), ((1, 1), (1, 1))];
    for (from, to) in sizes {
        for matrix in [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020] {
            for range in [Range::Limited, Range::Full] {
                for y in [0, 16, 81, 128, 180, 235, 255] {
                    for (cb, cr) in [(128, 128), (90, 240), (240, 110), (0, 255), (255, 0), (16, 16)] {
                        let code = [y, cb, cr];
                        let rgb = converted(code, from, to, matrix, range);
                        assert_eq!(rgb.len(), 3 * to.0 * to.1);
                        assert!(rgb.chunks(3).all(|pixel| pixel == &rgb[..3]), "one colour stays one: {from:?} {to:?}");
                        for (value, expected) in rgb.iter().zip(expected(code, matrix, range)) {
                            let off = (f64::from(*value) - expected).abs();
                            assert!(off < 0.6, "{matrix:?} {range:?} {code:?}: {value}, not {expected}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn planes_that_end_early_are_refused() {
    let conversion =
        Conversion { from: (6, 4), to: (3, 2), is_interleaved: false, matrix: Matrix::Bt709, range: Range::Limited };
    let mut converter = Converter::new(conversion);
    let (data, mut out) = ([128; 24], Vec::new());
    let plane = |length: usize, stride: usize| Plane { data: &data[..length], stride };
    let mut convert = |luma, cb, cr| converter.convert(luma, Chroma::Separate(cb, cr), &mut out);
    assert_eq!(convert(plane(24, 6), plane(6, 3), plane(6, 3)), Ok(()));
    assert_eq!(convert(plane(23, 6), plane(6, 3), plane(6, 3)), Err(TooShort));
    assert_eq!(convert(plane(24, 6), plane(5, 3), plane(6, 3)), Err(TooShort));
    assert_eq!(convert(plane(24, 6), plane(6, 3), plane(0, 3)), Err(TooShort));
    assert_eq!(convert(plane(24, 5), plane(6, 3), plane(6, 3)), Err(TooShort), "rows overlap");
    assert_eq!(convert(plane(24, 6), plane(6, usize::MAX), plane(6, 3)), Err(TooShort));
    assert_eq!(out.len(), 18, "only the whole picture is there");
}
