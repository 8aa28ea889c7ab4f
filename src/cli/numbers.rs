//! Values of flags that are numbers within bounds.

/// Any number but NaN and the infinities.
fn number(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|v| v.is_finite()).ok_or_else(|| "must be a number".to_owned())
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if v > 0.0 { Ok(v) } else { Err("must be above 0".into()) })
}

/// A number of at least 0.
pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if v >= 0.0 { Ok(v) } else { Err("must be 0 or more".into()) })
}

/// A number above 0 and at most 1.
pub(super) fn fraction(text: &str) -> Result<f64, String> {
    positive(text).and_then(|v| if v <= 1.0 { Ok(v) } else { Err("must be above 0 and at most 1".into()) })
}

/// A number of at least 0 and below 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    number(text)
        .and_then(|v| if (0.0..1.0).contains(&v) { Ok(v) } else { Err("must be at least 0 and below 1".into()) })
}
