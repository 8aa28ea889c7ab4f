//! `touchline config`: check a configuration file, show the merged settings, print the schema of the file.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::run::{RunArgs, setting_sources};
use touchline_core::error::{Error, Result};
use touchline_core::redact;
use touchline_core::redact::print_error_line;
use touchline_serve::config;
use touchline_serve::config::{
    ADMIN_TOKEN, ConfigFile, Entry, Layer, Problem, READ_TOKEN, RUN_KEYS, SettingSources, Settings, Stream, ValueOrigin,
};

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Validate a configuration file without running it. Every mistake is listed with its line; the exit code is 2.
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the settings that `touchline run` would use with these flags, and where each value comes from. Passwords and
    /// tokens are masked.
    Show(Box<ShowArgs>),
    /// Print the JSON Schema of the configuration file, for editors and validators.
    Schema,
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn config(args: ConfigArgs) -> Result<()> {
    match args.command {
        ConfigCommand::Check { file } => {
            let name = file.display().to_string();
            let settings =
                resolved(SettingSources { file: ConfigFile::read(&file)?, ..SettingSources::default() }, &name)?;
            let problems = settings.problems_at_start();
            if problems.is_empty() {
                let count = settings.streams.len();
                print(&format!("{name}: valid, {count} stream{}\n", if count == 1 { "" } else { "s" }));
                return Ok(());
            }
            Err(report(&problems, &name))
        }
        ConfigCommand::Show(args) => {
            let settings = resolved(setting_sources(&args.run)?, "the settings")?;
            let token = |name: &str| std::env::var_os(name).is_some();
            print(&if args.json { as_json(&settings, token)? } else { as_text(&settings, token) });
            Ok(())
        }
        ConfigCommand::Schema => {
            print(&(pretty(&config::schema())? + "\n"));
            Ok(())
        }
    }
}

fn print(text: &str) {
    // A reader that closes the pipe (`| head`) needs no more lines.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn pretty(value: &Value) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| Error::Internal(format!("cannot write JSON: {e}")))
}

fn resolved(sources: SettingSources, name: &str) -> Result<Settings> {
    config::resolve(sources).map_err(|problems| report(&problems, name))
}

/// Lists all problems, and says how many there are.
fn report(problems: &[Problem], name: &str) -> Error {
    for problem in problems {
        print_error_line(format_args!("{problem}"));
    }
    let noun = if problems.len() == 1 { "mistake" } else { "mistakes" };
    Error::Usage(format!("{name}: {} {noun}; correct the lines above", problems.len()))
}

/// Settings and their values as they may be shown: every key, also those that are not set.
fn run_values(settings: &Settings, token_is_set: impl Fn(&str) -> bool) -> Vec<(String, Option<Entry>)> {
    let set = |key: &str| settings.values.get(key).cloned();
    let mut values: Vec<_> = RUN_KEYS.keys.iter().map(|key| (key.path.clone(), set(&key.path))).collect();
    for (key, file, variable) in [
        ("access.admin_token", "access.admin_token_file", ADMIN_TOKEN),
        ("access.read_token", "access.read_token_file", READ_TOKEN),
    ] {
        // The file goes before the variable.
        if set(file).is_none() && token_is_set(variable) {
            let entry = Entry { value: Value::from("***"), place: ValueOrigin::Environment(variable.to_owned()) };
            values.push((key.to_owned(), Some(entry)));
        }
    }
    values.sort_by(|a, b| a.0.cmp(&b.0));
    values
}

/// A value without secrets.
fn shown(key: &str, value: &Value) -> Value {
    match value {
        Value::String(text) if ["uri", "output"].contains(&key) => Value::from(redact::uri(text)),
        Value::String(text) if key == "url" => Value::from(config::sink::shown_url(text)),
        Value::String(text) => Value::from(redact::text(text)),
        Value::Array(items) => items.iter().map(|item| shown(key, item)).collect(),
        other => other.clone(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn as_text(settings: &Settings, token_is_set: impl Fn(&str) -> bool) -> String {
    let mut rows: Vec<[String; 3]> = Vec::new();
    for (key, entry) in run_values(settings, token_is_set) {
        rows.push(match entry {
            Some(Entry { value, place }) => [key.clone(), plain(&shown(&key, &value)), place.to_string()],
            None => [key, "-".to_owned(), "not set".to_owned()],
        });
    }
    for stream in all_streams(settings) {
        rows.push([format!("stream {}", stream.settings.id), String::new(), stream.place.to_string()]);
        for (key, Entry { value, place }) in stream_values(stream, &settings.values) {
            rows.push([format!("  {key}"), plain(&shown(key, value)), place.to_string()]);
        }
    }
    for sink in &settings.sinks {
        rows.push([format!("sink {}", sink.settings.name), String::new(), sink.place.to_string()]);
        for (key, Entry { value, place }) in sink.values.iter().filter(|(key, _)| *key != "name") {
            rows.push([format!("  {key}"), plain(&shown(key, value)), place.to_string()]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(60);
    let (first, second) = (width(0), width(1));
    rows.iter().fold(String::new(), |mut out, [key, value, place]| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{key:<first$}  {value:<second$}  {place}");
        out
    })
}

fn as_json(settings: &Settings, token_is_set: impl Fn(&str) -> bool) -> Result<String> {
    let view = |key: &str, entry: Option<&Entry>| match entry {
        Some(Entry { value, place }) => {
            json!({ "value": shown(key, value), "from": place.source(), "place": place.to_string() })
        }
        None => json!({ "value": null, "from": "default", "place": "not set" }),
    };
    let values = run_values(settings, token_is_set);
    let values: Map<String, Value> = values.iter().map(|(key, e)| (key.clone(), view(key, e.as_ref()))).collect();
    let streams: Vec<Value> = all_streams(settings)
        .map(|stream| {
            let values = stream.values.iter().map(|(key, entry)| (key.clone(), view(key, Some(entry))));
            let values: Map<String, Value> = values.collect();
            json!({ "id": stream.settings.id, "place": stream.place.to_string(), "settings": values })
        })
        .collect();
    let sinks = settings.sinks.iter().map(|sink| {
        let values = sink.values.iter().map(|(key, entry)| (key.clone(), view(key, Some(entry))));
        let values: Map<String, Value> = values.collect();
        json!({ "name": sink.settings.name, "place": sink.place.to_string(), "settings": values })
    });
    let sinks: Vec<Value> = sinks.collect();
    Ok(pretty(&json!({ "settings": values, "streams": streams, "sinks": sinks }))? + "\n")
}

fn all_streams(settings: &Settings) -> impl Iterator<Item = &Stream> {
    settings.streams.iter().chain(&settings.named)
}

/// The values of a stream that are not just the run's.
fn stream_values<'a>(stream: &'a Stream, run: &'a Layer) -> impl Iterator<Item = (&'a str, &'a Entry)> {
    let values = stream.values.iter().filter(|(key, entry)| *key != "id" && run.get(*key) != Some(*entry));
    values.map(|(key, entry)| (key.as_str(), entry))
}
