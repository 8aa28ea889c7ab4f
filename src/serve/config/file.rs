//! The configuration file: TOML, with the line of every value. All mistakes are found, not only the first.

use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::keys::split;
use super::layers::{Entry, Layer, Problem, ValueOrigin, check_run, check_sink, check_stream};
use super::raw::{Keys, RUN_KEYS, SINK, SINK_KEYS, STREAM, STREAM_KEYS};
use touchline_core::error::{Error, Result};

/// The contents of a configuration file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigFile {
    /// The values of the run.
    pub values: Layer,
    /// The streams, in the order of the file.
    pub streams: Vec<RawTable>,
    /// The sinks, in the order of the file.
    pub sinks: Vec<RawTable>,
    /// Mistakes in the file.
    pub problems: Vec<Problem>,
}

/// A stream or a sink with the place of each of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct RawTable {
    /// Where the table begins.
    pub place: ValueOrigin,
    /// Its values.
    pub values: Layer,
}

/// A list of tables.
struct TableList {
    name: &'static str,
    known: &'static LazyLock<Keys>,
    check: Check,
    /// Keys that each table must have, and examples of them.
    required: &'static [(&'static str, &'static str)],
}

const STREAMS: TableList = TableList {
    name: STREAM,
    known: &STREAM_KEYS,
    check: check_stream,
    required: &[("uri", "\"rtsp://camera.example/live\"")],
};

const SINKS: TableList = TableList {
    name: SINK,
    known: &SINK_KEYS,
    check: check_sink,
    required: &[("name", "\"desk\""), ("kind", "\"webhook\""), ("spool", "\"/var/lib/touchline/spool\"")],
};

impl ConfigFile {
    /// # Errors
    /// [`Error::Usage`] when the file cannot be read. Mistakes in it are [`ConfigFile::problems`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            let path = path.display();
            Error::Usage(format!("{path}: cannot read the configuration: {e}; check the path and its permissions"))
        })?;
        Ok(Self::parse(&text, &path.display().to_string()))
    }

    /// `name` names the file in places.
    pub fn parse(text: &str, name: &str) -> Self {
        let mut reader = Reader { text, name, problems: Vec::new() };
        let (table, errors) = DeTable::parse_recoverable(text);
        for e in errors {
            let at = e.span().map_or(0, |span| span.start);
            reader.problem(at, "", format!("{}; the file is not valid TOML", e.message().replace('\n', " ")));
        }
        if !reader.problems.is_empty() {
            // The rest may be read wrongly. One mistake often is several errors of a line.
            reader.problems.dedup_by(|later, first| later.place == first.place);
            return Self { problems: reader.problems, ..Self::default() };
        }
        let (mut values, mut streams, mut sinks) = (Layer::new(), Vec::new(), Vec::new());
        for (key, value) in table.get_ref() {
            if key.get_ref() == STREAM {
                streams = reader.tables(key, value, &STREAMS);
            } else if key.get_ref() == SINK {
                sinks = reader.tables(key, value, &SINKS);
            } else {
                reader.value("", key, value, &RUN_KEYS, check_run, &mut values);
            }
        }
        Self { values, streams, sinks, problems: reader.in_order() }
    }
}

struct Reader<'a> {
    text: &'a str,
    name: &'a str,
    problems: Vec<Problem>,
}

type Check = fn(&str, &Value) -> Result<(), String>;
type Name<'i> = Spanned<toml::de::DeString<'i>>;

impl Reader<'_> {
    fn place(&self, at: usize) -> ValueOrigin {
        let line = self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        ValueOrigin::File { name: self.name.to_owned(), line }
    }

    fn problem(&mut self, at: usize, key: &str, text: String) {
        let place = self.place(at);
        self.problems.push(Problem { place, key: key.to_owned(), text });
    }

    fn in_order(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| match problem.place {
            ValueOrigin::File { line, .. } => line,
            _ => 0,
        });
        self.problems
    }

    /// A key with its value: a section, or a value that is checked.
    fn value(
        &mut self,
        prefix: &str,
        key: &Name<'_>,
        value: &Spanned<DeValue<'_>>,
        known: &Keys,
        check: Check,
        values: &mut Layer,
    ) {
        let (path, at) = (format!("{prefix}{}", key.get_ref()), key.span().start);
        if known.sections.contains(&path) {
            match value.get_ref() {
                DeValue::Table(table) => {
                    for (key, value) in table {
                        self.value(&format!("{path}."), key, value, known, check, values);
                    }
                }
                _ => self.problem(at, &path, format!("this is a section; write [{path}]")),
            }
            return;
        }
        if known.find(&path).is_none() {
            let text = unknown(&path, known);
            return self.problem(at, "", text);
        }
        let json = Value::deserialize(ValueDeserializer::from(value.clone())).map_err(|e| e.message().to_owned());
        match json.and_then(|json| check(&path, &json).map(|()| json)) {
            Ok(value) => {
                let place = self.place(at);
                values.insert(path, Entry { value, place });
            }
            Err(text) => self.problem(at, &path, text),
        }
    }

    fn tables(&mut self, key: &Name<'_>, value: &Spanned<DeValue<'_>>, list: &TableList) -> Vec<RawTable> {
        let name = list.name;
        let DeValue::Array(tables) = value.get_ref() else {
            let text = format!("this is not a list; write [[{name}]] for each {name}");
            self.problem(key.span().start, name, text);
            return Vec::new();
        };
        let mut found = Vec::new();
        for table in tables {
            let at = table.span().start;
            let DeValue::Table(keys) = table.get_ref() else {
                self.problem(at, name, format!("a {name} is a table; write [[{name}]] for each"));
                continue;
            };
            let (mut values, mistakes) = (Layer::new(), self.problems.len());
            for (key, value) in keys {
                self.value("", key, value, list.known, list.check, &mut values);
            }
            // Until its source or its sink knows them, and for problems about them.
            for address in ["uri", "url", "output"].iter().filter_map(|key| values.get(*key)?.value.as_str()) {
                drop(touchline_core::redact::remember(address));
            }
            match list.required.iter().find(|(key, _)| !values.contains_key(*key)) {
                None => found.push(RawTable { place: self.place(at), values }),
                Some((key, example)) if self.problems.len() == mistakes => {
                    self.problem(at, name, format!("the {name} has no {key}; add one as in {key} = {example}"));
                }
                Some(_) => {}
            }
        }
        found
    }
}

/// Says that there is no such key, and which one may be meant.
fn unknown(path: &str, known: &Keys) -> String {
    let (section, _) = split(path);
    match known.nearest(path) {
        Some(nearest) => format!("unknown key {path}; did you mean {nearest}?"),
        None if section.is_empty() => format!("unknown key {path}; `touchline config schema` lists all keys"),
        None => format!("unknown key {path}; the keys of [{section}] are {}", known.in_section(section).join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        ConfigFile::parse(text, "t.toml").problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_mistakes_are_found_with_their_lines() {
        let found = problems(
            "max_streams = 0\nlisten = 8080\n[vote]\nwindwo = 3\n[[stream]]\nuri = 3\n[[stream]]\nid = \"a\"\n\
             [[stream]]\nuri = \"x\"\nlatency_ms = 60001\nvote = { window = \"long\" }\n",
        );
        let expected = [
            "t.toml:1: max_streams: 0 is not allowed; choose 1 to 4096",
            "t.toml:2: listen: invalid type: integer `8080`, expected a string",
            "t.toml:4: unknown key vote.windwo; did you mean vote.window?",
            "t.toml:6: uri: invalid type: integer `3`, expected a string",
            "t.toml:7: stream: the stream has no uri; add one as in uri = \"***",
            "t.toml:11: latency_ms: 60001 is not allowed; choose 0 to 60000",
            "t.toml:12: vote.window: invalid type: string \"long\", expected u32",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected.trim_end_matches("***")), "{found}");
        }
    }

    #[test]
    fn unknown_keys_are_reported_with_the_nearest_key() {
        for (text, hint) in [
            ("max_stream = 3", "did you mean max_streams?"),
            ("window = 3", "did you mean vote.window?"),
            ("[source]\nfolders = []", "did you mean sources?"),
            ("[tls]\ncertificate = \"x\"", "did you mean tls.cert?"),
            ("[tls]\npassword = \"x\"", "the keys of [tls] are cert, key"),
            ("[[stream]]\nuri = \"x\"\nlatency = 3", "did you mean latency_ms?"),
            ("speed = 9", "`touchline config schema`"),
        ] {
            let found = problems(text);
            assert!(found.len() == 1 && found[0].contains(hint), "{text}: {found:?}");
        }
    }

    #[test]
    fn invalid_toml_is_one_problem_with_its_line() {
        let found = problems("this is no toml");
        assert!(found.len() == 1 && found[0].starts_with("t.toml:1: "), "{found:?}");
    }
}
