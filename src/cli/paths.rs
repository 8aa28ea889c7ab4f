//! Paths on the command line: how they are shown, and outputs that would replace an input.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};
use touchline_core::error::{Error, Result};
use touchline_core::markup::{is_harmless, plain};
use touchline_media::gst::output::OutputAddress;

/// A path for people: one line, without characters that hide what it contains.
pub fn shown(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

/// The path of an output. Names with control or invisible characters are refused.
pub fn output_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        let is_sound = path.to_string_lossy().chars().all(is_harmless);
        if is_sound { Ok(path) } else { Err("the name has control or invisible characters; rename it") }
    })
}

/// Refuses to replace an input. `flag` names the output `out`. `inputs` are paths or URIs.
///
/// # Errors
/// [`Error::Usage`] if `out` is a regular file and one of `inputs`, also by another name.
pub fn refuse_inputs<T: AsRef<Path>>(flag: &str, out: &Path, inputs: impl IntoIterator<Item = T>) -> Result<()> {
    // A device may be both.
    let Some(out_file) = std::fs::metadata(out).ok().filter(Metadata::is_file) else { return Ok(()) };
    let is_input = |input: &Path| {
        let same = |meta: &Metadata| (meta.dev(), meta.ino()) == (out_file.dev(), out_file.ino());
        local(input).and_then(|path| path.metadata().ok()).is_some_and(|meta| same(&meta))
    };
    if inputs.into_iter().any(|input| is_input(input.as_ref())) {
        let text = format!("{flag}: {} is the input and would be replaced; name another file", shown(out));
        return Err(Error::Usage(text));
    }
    Ok(())
}

/// As [`refuse_inputs`], for the receiver of pictures with the label. Inputs in the folder of a playlist are refused, because its
/// segments may have their names.
///
/// # Errors
/// As [`refuse_inputs`].
pub fn refuse_inputs_of<T: AsRef<Path>>(
    flag: &str,
    address: &OutputAddress,
    inputs: impl IntoIterator<Item = T>,
) -> Result<()> {
    match address {
        OutputAddress::File(path, _) => refuse_inputs(flag, path, inputs),
        OutputAddress::Hls(dir) => {
            let Ok(dir_file) = dir.canonicalize() else { return Ok(()) };
            let is_within = |input: T| {
                local(input.as_ref())
                    .is_some_and(|path| path.canonicalize().is_ok_and(|path| path.parent() == Some(&dir_file)))
            };
            let is_segment = |input: &T| {
                let extension = input.as_ref().extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
                matches!(extension.as_str(), "ts" | "m3u8")
            };
            if inputs.into_iter().filter(is_segment).any(is_within) {
                let text = format!("{flag}: the input is in {} and could be replaced; name another folder", shown(dir));
                return Err(Error::Usage(text));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The file that a path or a URI names.
fn local(input: &Path) -> Option<PathBuf> {
    let uri = input.to_str().filter(|text| text.starts_with("file:")).and_then(|text| url::Url::parse(text).ok());
    match uri {
        Some(uri) => uri.to_file_path().ok(),
        None => Some(input.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_by_any_name_of_an_input_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a.ts", "b.ts"] {
            std::fs::write(path(name), "media").unwrap();
        }
        std::fs::hard_link(path("a.ts"), path("hard.ts")).unwrap();
        std::os::unix::fs::symlink(path("a.ts"), path("soft.ts")).unwrap();
        let uri = PathBuf::from(format!("file://{}", path("a.ts").display()));
        for input in [path("a.ts"), path("hard.ts"), path("soft.ts"), dir.path().join(".").join("a.ts"), uri] {
            let refused = refuse_inputs("--output", &path("a.ts"), [path("b.ts"), input.clone()]).unwrap_err();
            assert!(refused.to_string().contains("a.ts is the input and would be replaced"), "{refused}");
            assert!(refuse_inputs("--output", &path("b.ts"), [&input]).is_ok());
            let hls = |dir: &Path| OutputAddress::parse(&format!("hls:{}", dir.display())).unwrap();
            assert_eq!(refuse_inputs_of("--output", &hls(dir.path()), [&input]).unwrap_err().exit_code(), 2);
            assert!(refuse_inputs_of("--output", &hls(&path("other")), [&input]).is_ok());
        }
        // A device is not replaced.
        assert!(refuse_inputs("--output", Path::new("/dev/null"), ["/dev/null"]).is_ok());
        assert!(refuse_inputs("--output", &path("new.ts"), [path("a.ts")]).is_ok());
    }
}
