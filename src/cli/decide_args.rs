//! Flags of the subcommands that decide recordings, `score` and `render`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::run::named;
use super::signal::SignalArgs;
use super::vote::VoteArgs;
use super::{Compute, settings_of};
use touchline_core::error::Result;
use touchline_media::options::TierChoice;
use touchline_serve::archive::task::ScoreVariables;
use touchline_serve::config::{self, Key, Settings};

#[derive(Debug, Args, Serialize)]
pub struct DecideArgs {
    /// Directory of the model pack [default: weights/compact].
    #[arg(long, value_name = "DIR", env = "TOUCHLINE_PACK")]
    #[serde(skip)]
    pub(super) pack: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    compute: Compute,
    /// Pictures to decode. full: all; lean: those that the models use and their references; sparse: as lean, without the flow
    /// model; key: key pictures only (seconds without one are gaps); auto: lean [default: auto].
    #[arg(long, value_parser = named::<TierChoice>(&TierChoice::NAMES))]
    tier: Option<TierChoice>,
    #[command(flatten)]
    vote: VoteArgs,
    #[command(flatten)]
    signal: SignalArgs,
}

impl DecideArgs {
    /// The settings from flags and the variables that `read` reads.
    pub(super) fn settings(&self, read: impl Fn(&str) -> Option<OsString>) -> Result<Settings> {
        settings_of(self, Self::has, read)
    }

    /// The settings as variables, which another process reads: those of flags and of the variables that `read` reads.
    ///
    /// # Errors
    /// As [`DecideArgs::settings`].
    pub(super) fn variables(&self, read: impl Fn(&str) -> Option<OsString>) -> Result<ScoreVariables> {
        self.settings(&read)?;
        let (mut layer, _) = config::environment(read, Self::has);
        layer.extend(config::flags(self));
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        let variable = |(path, entry): (&String, &config::Entry)| {
            let key = config::RUN_KEYS.find(path).filter(|key| Self::has(key))?;
            Some((key.variable(), text(&entry.value)))
        };
        Ok(layer.iter().filter_map(variable).collect())
    }

    /// The settings of [`DecideArgs::variables`].
    ///
    /// # Errors
    /// As [`DecideArgs::settings`].
    pub(super) fn settings_of(variables: &ScoreVariables) -> Result<Settings> {
        let read = |name: &str| variables.get(name).map(OsString::from);
        settings_of(&Value::Object(serde_json::Map::new()), Self::has, read)
    }

    /// Whether `score` takes the key from the environment.
    fn has(key: &Key) -> bool {
        Compute::has(key) || key.path == "tier" || key.path.starts_with("vote.") || key.path.starts_with("signal.")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: DecideArgs,
    }

    fn settings(flags: &[&str], variables: &[(&str, &str)]) -> Result<Settings> {
        let args = Cli::try_parse_from(["score"].iter().chain(flags)).unwrap().args;
        args.settings(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn vote_and_signals_come_from_flags_and_variables() {
        let variables = [
            ("TOUCHLINE_VOTE_WINDOW", "5"),
            ("TOUCHLINE_VOTE_ONSET", "0.8"),
            ("TOUCHLINE_SIGNAL_BLACK_S", "3"),
            ("TOUCHLINE_PRECISION", "f32"),
            ("TOUCHLINE_MAX_STREAMS", "0"),
        ];
        let chosen = settings(&["--vote-window", "7", "--signal-freeze-s=4", "--vote-stride=2"], &variables).unwrap();
        assert_eq!((chosen.vote.window, chosen.vote.stride, chosen.vote.onset), (7, 2, 0.8));
        assert_eq!((chosen.signals.black.as_secs(), chosen.signals.freeze.as_secs()), (3, 4));
        assert_eq!(chosen.precision, config::PrecisionChoice::F32);
        for (flags, variables, word) in [
            (&["--vote-window=601"][..], &[][..], "--vote-window"),
            (&[], &[("TOUCHLINE_VOTE_WINDOW", "0")], "TOUCHLINE_VOTE_WINDOW"),
            (&[], &[("TOUCHLINE_SIGNAL_BLACK_S", "long")], "TOUCHLINE_SIGNAL_BLACK_S"),
        ] {
            let refused = settings(flags, variables).unwrap_err().to_string();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn settings_survive_as_variables() {
        let flags = ["--vote-window=7", "--signal-off=black,freeze", "--signal-freeze-db=-50.5", "--tier=full"];
        let variables = [("TOUCHLINE_VOTE_ONSET", "0.8"), ("TOUCHLINE_VOTE_WINDOW", "5"), ("TOUCHLINE_FLEET", "x")];
        let read = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let args = Cli::try_parse_from(["score"].iter().chain(&flags)).unwrap().args;
        let all = args.variables(read).unwrap();
        assert_eq!(all.len(), 5, "{all:?}");
        let (there, here) = (DecideArgs::settings_of(&all).unwrap(), args.settings(read).unwrap());
        assert_eq!((there.vote, there.signals, there.tier), (here.vote, here.signals, here.tier));
        assert_eq!((there.vote.window, there.vote.onset), (7, 0.8));
    }

    #[test]
    fn every_setting_of_score_has_a_flag() {
        let command = Cli::command();
        let flags: BTreeSet<String> = command
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .map(|name| format!("--{name}"))
            .collect();
        for key in config::RUN_KEYS.keys.iter().filter(|key| DecideArgs::has(key)) {
            assert!(flags.contains(&key.flag()), "{}", key.flag());
        }
    }
}
