//! Settings of the command line, the environment and the configuration file, at the start and when the file is read again.

use std::path::Path;

use super::RunArgs;
use touchline_core::error::{Error, Result};
use touchline_serve::config;
use touchline_serve::config::{
    ConfigFile, Key, Listen, Problem, SettingSources, Settings, Shard, Stream, StreamSettings,
};
use touchline_serve::run::Reading;

/// Reads the file and the environment.
///
/// # Errors
/// [`Error::Usage`] when the file cannot be read.
pub(in crate::cli) fn setting_sources(args: &RunArgs) -> Result<SettingSources> {
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    let (environment, problems) = config::environment(|name| std::env::var_os(name), |_: &Key| true);
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (name, known) in config::misspelt(names) {
        tracing::warn!("the variable {name} is not a setting; did you mean {known}?");
    }
    let named = args.uris.iter().map(|given| {
        let (id, uri) = split_name(given);
        (id.map(str::to_owned), uri.to_owned())
    });
    Ok(SettingSources { file, environment, flags: config::flags(args), problems, named: named.collect() })
}

/// The settings of a run.
///
/// # Errors
/// [`Error::Usage`] naming the setting that cannot be used.
pub(super) fn resolve(args: &RunArgs) -> Result<Settings> {
    let settings = config::resolve(setting_sources(args)?).map_err(|problems| config::refused(&problems))?;
    let is_ours = |stream: &Stream| settings.shard.is_none_or(|shard| shard.takes(&stream.settings.id));
    if settings.listen == Listen::Off
        && settings.fleet.is_none()
        && !settings.streams.iter().chain(&settings.named).any(is_ours)
    {
        let how = "give a URI or a path, as in `touchline run rtsp://camera.example/live`, or --config FILE";
        return Err(Error::Usage(format!("nothing to watch, and no API to add streams over; {how}")));
    }
    Ok(settings)
}

/// Reads the configuration file again, for part `shard` of its streams.
///
/// # Errors
/// [`Error::Usage`] naming the setting that cannot be used.
pub(super) fn read_again(args: &RunArgs, shard: Option<Shard>) -> Result<Reading> {
    // The file cannot change streams of the command line.
    let sources = SettingSources { named: Vec::new(), ..setting_sources(args)? };
    let settings = config::resolve(sources).map_err(|problems: Vec<Problem>| config::refused(&problems))?;
    Ok(Reading {
        vote: settings.vote,
        latency_ms: settings.latency_ms.get(),
        retry: settings.retry,
        fixed: settings.fixed(),
        streams: of_shard(shard, settings.streams),
    })
}

/// The streams of this process.
pub(super) fn of_shard(shard: Option<Shard>, streams: Vec<Stream>) -> Vec<StreamSettings> {
    let settings = streams.into_iter().map(|stream| stream.settings);
    settings.filter(|stream| shard.is_none_or(|shard| shard.takes(&stream.id))).collect()
}

/// `NAME=URI` → both; a `=` behind a `/`, `:` or `?` belongs to the URI, and so does one in the name of a file.
pub(in crate::cli) fn split_name(given: &str) -> (Option<&str>, &str) {
    match given.split_once('=') {
        Some((name, uri)) if !name.contains(['/', ':', '?']) && !Path::new(given).exists() => (Some(name), uri),
        _ => (None, given),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory, Parser};
    use serde_json::Value;
    use touchline_serve::config::Form;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(arguments: &[&str]) -> RunArgs {
        Cli::try_parse_from(["run"].iter().chain(arguments)).unwrap().args
    }

    #[test]
    fn names_are_distinguished_from_uris() {
        for (given, name, uri) in [
            ("court=rtsp://cam/live?a=b", Some("court"), "rtsp://cam/live?a=b"),
            ("rtsp://cam/live?a=b", None, "rtsp://cam/live?a=b"),
            ("srt://:9000?mode=listener", None, "srt://:9000?mode=listener"),
            ("testsrc://?seconds=3", None, "testsrc://?seconds=3"),
            ("a=b.mp4", Some("a"), "b.mp4"),
            ("dir/a=b.mp4", None, "dir/a=b.mp4"),
        ] {
            assert_eq!(split_name(given), (name, uri), "{given}");
        }
    }

    #[test]
    fn a_run_without_streams_needs_the_api() {
        assert!(resolve(&parse(&[])).unwrap().streams.is_empty(), "the page and the API are enabled by default");
        let refused = resolve(&parse(&["--listen", "off"])).unwrap_err().to_string();
        assert!(refused.contains("nothing to watch"), "{refused}");
    }

    #[test]
    fn shards_of_a_file_are_the_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("touchline.toml");
        let text: String = (0..8).map(|n| format!("[[stream]]\nuri = \"rtsp://h/{n}\"\n")).collect();
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        let ids = |shard: &str| -> Vec<String> {
            let settings = resolve(&parse(&["--config", path, "--shard", shard])).unwrap();
            of_shard(settings.shard, settings.streams).into_iter().map(|s| s.id).collect()
        };
        let mut both = [ids("0/2"), ids("1/2")].concat();
        both.sort();
        let mut all = ids("0/1");
        all.sort();
        assert_eq!((both, all.len()), (all, 8));
    }

    #[test]
    fn every_key_of_the_file_has_its_flag_and_every_flag_its_key() {
        let command = Cli::command();
        // The file itself and the help are not settings.
        let flags: BTreeSet<String> = command
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .filter(|name| !["config", "help"].contains(name))
            .map(|name| format!("--{name}"))
            .collect();
        let keys: BTreeSet<String> = config::RUN_KEYS.keys.iter().map(Key::flag).collect();
        assert_eq!(flags, keys);
    }

    #[test]
    fn flags_are_a_layer_with_the_keys_of_the_file() {
        let args = parse(&[
            "--max-streams=3",
            "--retry",
            "--linger=false",
            "-q",
            "testsrc://",
            "--vote-onset",
            "0.7",
            "--tls-cert",
            "c",
            "--device",
            "cpu",
            "--precision",
            "f32",
            "--admin-token-file",
            "t",
            "--sources-schemes",
            "rtsp,srt",
            "--isolation",
            "process",
        ]);
        assert_eq!(args.uris, ["testsrc://"], "a switch takes no value from the next argument");
        let layer = config::flags(&args);
        let values: Vec<String> = layer.iter().map(|(key, e)| format!("{key}={} {}", e.value, e.place)).collect();
        assert_eq!(
            values,
            [
                "access.admin_token_file=\"t\" --admin-token-file",
                "device=\"cpu\" --device",
                "isolation=\"process\" --isolation",
                "linger=false --linger",
                "max_streams=3 --max-streams",
                "precision=\"f32\" --precision",
                "quiet=true --quiet",
                "retry=true --retry",
                "sources.schemes=[\"rtsp\",\"srt\"] --sources-schemes",
                "tls.cert=\"c\" --tls-cert",
                "vote.onset=0.7 --vote-onset",
            ]
        );
    }

    #[test]
    fn flags_have_the_bounds_of_the_file() {
        for (flag, value, bounds) in [
            ("--max-streams", "0", "1 to 4096"),
            ("--latency-ms", "60001", "0 to 60000"),
            ("--batch-max", "513", "1 to 512"),
            ("--batch-wait-ms", "many", "0 to 1000"),
            ("--shard", "2/2", "I/N"),
            ("--listen", "8080", "ADDRESS:PORT"),
            ("--device", "tpu", "cuda:0"),
        ] {
            let refused = Cli::try_parse_from(["run", flag, value]).err().map(|e| e.to_string()).unwrap_or_default();
            let all = [flag, value, bounds];
            assert!(all.iter().all(|word| refused.contains(word)), "{all:?}: {refused}");
        }
    }

    #[test]
    fn flags_refuse_numbers_out_of_bounds() {
        let schema = config::schema();
        for key in config::RUN_KEYS.keys.iter().filter(|key| key.form == Form::Number) {
            let pointer = format!("/properties/{}", key.path.replace('.', "/properties/"));
            let bounds = schema.pointer(&pointer).unwrap();
            let (least, most) = (bounds["minimum"].as_f64().unwrap(), bounds["maximum"].as_f64().unwrap());
            for number in [least - 1.0, most + 1.0] {
                let flag = format!("{}={number}", key.flag());
                let args = Cli::try_parse_from(["run", flag.as_str()]);
                assert!(args.is_err() || resolve(&args.unwrap().args).is_err(), "{flag}");
            }
        }
    }

    #[test]
    fn help_has_every_default() {
        let defaults = config::default_layer();
        let command = Cli::command();
        for (key, entry) in &defaults {
            let flag = config::RUN_KEYS.find(key).unwrap().flag();
            let argument = command.get_arguments().find(|a| a.get_long() == flag.strip_prefix("--")).unwrap();
            let help = argument.get_long_help().or(argument.get_help()).unwrap().to_string();
            let default = match &entry.value {
                // A switch is off without its flag.
                Value::Bool(false) => continue,
                Value::Bool(true) => "true".to_owned(),
                Value::Array(list) if list.is_empty() => continue,
                Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
                Value::String(text) => text.clone(),
                // 1 in place of 1.0.
                number => number.as_f64().unwrap().to_string(),
            };
            assert!(help.contains(&format!("[default: {default}]")), "{flag}: {default}: {help}");
        }
        assert!(defaults.len() > 20, "{defaults:?}");
        let help =
            command.get_arguments().find(|a| a.get_long() == Some("pack")).unwrap().get_help().unwrap().to_string();
        assert!(help.contains(&format!("[default: {}]", config::DEFAULT_PACK)), "{help}");
    }
}
