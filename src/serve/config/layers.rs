//! Layers: the values of one source (defaults, file, environment or flags), each with its place. A later layer overrides earlier
//! ones, key by key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::raw::{Form, Key, RUN_KEYS, RawSettings, SINK, STREAM, StreamFile, defaults, short};
use super::sink::SinkFile;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// No source sets it.
    Default,
    /// A configuration file.
    File {
        /// Name of the file.
        name: String,
        /// Line, from 1.
        line: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A flag, by its name.
    Flag(String),
    /// Named on the command line without a flag: a stream.
    CommandLine,
}

impl ValueOrigin {
    /// The kind of source, as a word for programs.
    pub const fn source(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Environment(_) => "environment",
            Self::Flag(_) | Self::CommandLine => "flag",
        }
    }

    /// Whether the value overrides those that a stream of the file has.
    pub(super) const fn overrides_streams(&self) -> bool {
        matches!(self, Self::Environment(_) | Self::Flag(_))
    }
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value as JSON.
    pub value: Value,
    /// Where it comes from.
    pub place: ValueOrigin,
}

/// Values by key (`section.key`).
pub type Layer = BTreeMap<String, Entry>;

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the setting comes from.
    pub place: ValueOrigin,
    /// Empty when the problem is not one key's.
    pub key: String,
    /// The value and the allowed values.
    pub text: String,
}

impl fmt::Display for Problem {
    /// One line, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, text } = self;
        let line = match place {
            ValueOrigin::File { .. } | ValueOrigin::Default if !key.is_empty() => format!("{place}: {key}: {text}"),
            _ => format!("{place}: {text}"),
        };
        f.write_str(&touchline_core::redact::text(&line))
    }
}

/// The values of `tree` by key. Absent ones (null) are left out.
fn flatten(tree: &Value, prefix: &str, found: &mut Vec<(String, Value)>) {
    for (name, value) in tree.as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        match value {
            Value::Null => {}
            Value::Object(_) => flatten(value, &format!("{path}."), found),
            _ => found.push((path, value.clone())),
        }
    }
}

/// The reverse of [`flatten`].
pub(super) fn nest<'a>(values: impl Iterator<Item = (&'a str, &'a Value)>) -> Value {
    let mut root = Map::new();
    for (path, value) in values {
        let (section, name) = path.split_once('.').map_or((None, path), |(section, name)| (Some(section), name));
        let table = match section {
            None => &mut root,
            Some(section) => {
                let table = root.entry(section).or_insert_with(|| Value::Object(Map::new()));
                table.as_object_mut().expect("no key has the name of a section")
            }
        };
        table.insert(name.to_owned(), value.clone());
    }
    Value::Object(root)
}

/// The values of `layer` as `T`.
pub(super) fn typed<T: DeserializeOwned>(layer: &Layer) -> Result<T, String> {
    let tree = nest(layer.iter().map(|(path, entry)| (path.as_str(), &entry.value)));
    serde_json::from_value(tree).map_err(|e| e.to_string())
}

/// Checks one value of a run.
pub(super) fn check_run(path: &str, value: &Value) -> Result<(), String> {
    check::<RawSettings>(&[(path, value)])
}

/// Checks one value of a stream.
pub(super) fn check_stream(path: &str, value: &Value) -> Result<(), String> {
    let uri = Value::from("");
    let values = [("uri", &uri), (path, value)];
    check::<StreamFile>(if path == "uri" { &values[1..] } else { &values })
}

/// Checks one value of a sink.
pub(super) fn check_sink(path: &str, value: &Value) -> Result<(), String> {
    let (empty, kind) = (Value::from(""), Value::from("exec"));
    let mut values = vec![("name", &empty), ("kind", &kind), ("spool", &empty)];
    values.retain(|(key, _)| *key != path);
    values.push((path, value));
    check::<SinkFile>(&values)
}

fn check<T: DeserializeOwned>(values: &[(&str, &Value)]) -> Result<(), String> {
    serde_json::from_value::<T>(nest(values.iter().copied())).map(drop).map_err(|e| e.to_string())
}

/// The defaults.
pub fn default_layer() -> Layer {
    layer(&defaults(), |_| ValueOrigin::Default)
}

/// The layer of the command line. `settings` serialises to the keys of the file.
///
/// # Panics
/// When a key is unknown: flags and keys belong together.
pub fn flags(settings: &impl Serialize) -> Layer {
    layer(settings, |path| {
        let key = RUN_KEYS.find(path).unwrap_or_else(|| panic!("the flags have {path}, which is no key of the file"));
        ValueOrigin::Flag(key.flag())
    })
}

fn layer(settings: &impl Serialize, place: impl Fn(&str) -> ValueOrigin) -> Layer {
    let tree = serde_json::to_value(settings).expect("settings are plain values");
    let mut values = Vec::new();
    flatten(&tree, "", &mut values);
    values.retain(|(path, _)| path != STREAM && path != SINK);
    values
        .into_iter()
        .map(|(path, value)| {
            let entry = Entry { value: short(&value), place: place(&path) };
            (path, entry)
        })
        .collect()
}

/// The layer of the environment, for the keys that `wanted` selects. `read` reads a variable; an empty one counts as absent.
pub fn environment(read: impl Fn(&str) -> Option<OsString>, wanted: impl Fn(&Key) -> bool) -> (Layer, Vec<Problem>) {
    let (mut layer, mut problems) = (Layer::new(), Vec::new());
    for key in RUN_KEYS.keys.iter().filter(|key| wanted(key)) {
        let name = key.variable();
        let Some(text) = read(&name).filter(|text| !text.is_empty()) else { continue };
        let place = ValueOrigin::Environment(name);
        let value = text
            .into_string()
            .map_err(|_| "the value is not UTF-8 text".to_owned())
            .and_then(|text| parse(key.form, &text))
            .and_then(|value| check_run(&key.path, &value).map(|()| value));
        match value {
            Ok(value) => drop(layer.insert(key.path.clone(), Entry { value, place })),
            Err(text) => problems.push(Problem { place, key: key.path.clone(), text }),
        }
    }
    (layer, problems)
}

/// Those of `names` that are nearly the variable of a setting, each with that variable. Other variables with the prefix are no
/// mistakes: Kubernetes sets some for services.
pub fn misspelt(names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let known: Vec<String> = RUN_KEYS.keys.iter().map(Key::variable).collect();
    let suspects = names.filter(|name| name.starts_with("TOUCHLINE_") && !known.contains(name));
    let near = |name: &str| known.iter().find(|known| strsim::damerau_levenshtein(name, known) <= 2);
    suspects.filter_map(|name| near(&name).cloned().map(|known| (name, known))).collect()
}

fn parse(form: Form, text: &str) -> Result<Value, String> {
    match form {
        Form::Text => Ok(Value::from(text)),
        Form::Number => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<f64>().map(Value::from))
            .map_err(|_| format!("{text:?} is not a number")),
        Form::Bool => text.parse::<bool>().map(Value::from).map_err(|_| format!("{text:?} is not true or false")),
        Form::List => Ok(text.split(',').map(|part| Value::from(part.trim())).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &'static [(&'static str, &'static str)]) -> (Layer, Vec<Problem>) {
        environment(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)), |_| true)
    }

    #[test]
    fn variables_have_the_types_of_their_keys() {
        let (layer, problems) = read(&[
            ("TOUCHLINE_MAX_STREAMS", "7"),
            ("TOUCHLINE_JSONL", "5"),
            ("TOUCHLINE_VOTE_ONSET", "0.7"),
            ("TOUCHLINE_ALLOW_ANONYMOUS", "true"),
            ("TOUCHLINE_SOURCES_SCHEMES", "rtsp, srt"),
            ("TOUCHLINE_PACK", ""),
        ]);
        assert_eq!(problems, []);
        let values: Vec<(&str, String)> = layer.iter().map(|(k, e)| (k.as_str(), e.value.to_string())).collect();
        let expected = [
            ("access.allow_anonymous", "true"),
            ("jsonl", "\"5\""),
            ("max_streams", "7"),
            ("sources.schemes", r#"["rtsp","srt"]"#),
            ("vote.onset", "0.7"),
        ];
        assert_eq!(values, expected.map(|(k, v)| (k, v.to_owned())));
    }

    #[test]
    fn misspelt_variables_are_found_and_other_variables_are_ignored() {
        let names =
            ["TOUCHLINE_MAX_STREAM", "TOUCHLINE_PACK", "TOUCHLINE_PORT", "TOUCHLINE_SERVICE_HOST", "MAX_STREAM"];
        let others = ["TOUCHLINE_ADMIN_TOKEN", "TOUCHLINE_READ_TOKEN", "TOUCHLINE_CPU_LEVEL", "TOUCHLINE_CONFIG"];
        let found = misspelt(names.into_iter().chain(others).map(str::to_owned));
        assert_eq!(found, [("TOUCHLINE_MAX_STREAM".to_owned(), "TOUCHLINE_MAX_STREAMS".to_owned())]);
    }

    #[test]
    fn problems_name_the_variable_the_value_and_the_bounds() {
        let (layer, problems) = read(&[
            ("TOUCHLINE_MAX_STREAMS", "0"),
            ("TOUCHLINE_LATENCY_MS", "soon"),
            ("TOUCHLINE_RETRY", "yes"),
            ("TOUCHLINE_DEVICE", "tpu"),
            ("TOUCHLINE_RTSP_TRANSPORT", "quic"),
        ]);
        assert!(layer.is_empty());
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        for words in [
            ["TOUCHLINE_MAX_STREAMS: 0", "1 to 4096"],
            ["TOUCHLINE_LATENCY_MS: \"soon\"", "number"],
            ["TOUCHLINE_RETRY: \"yes\"", "true or false"],
            ["TOUCHLINE_DEVICE: \"tpu\"", "cuda:0"],
            ["TOUCHLINE_RTSP_TRANSPORT", "`tcp`"],
        ] {
            assert!(lines.iter().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {lines:?}");
        }
    }
}
