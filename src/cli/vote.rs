//! Flags of the sliding vote.

use clap::Args;
use serde::Serialize;

#[cfg(feature = "train")]
use touchline_core::error::Result;
#[cfg(feature = "train")]
use touchline_core::vote::VoteConfig;

#[derive(Clone, Debug, Args, Serialize)]
pub(super) struct VoteArgs {
    /// Length of the sliding vote, 1 to 600 seconds [default: 10].
    #[arg(long = "vote-window", value_name = "SECONDS")]
    window: Option<u32>,
    /// Seconds between two estimates, at most --vote-window [default: 1].
    #[arg(long = "vote-stride", value_name = "SECONDS")]
    stride: Option<u32>,
    /// A class comes on air at this mean probability [default: 0.6].
    #[arg(long = "vote-onset", value_name = "PROBABILITY")]
    onset: Option<f32>,
    /// A class goes off air below this mean probability, at most --vote-onset [default: 0.4].
    #[arg(long = "vote-offset", value_name = "PROBABILITY")]
    offset: Option<f32>,
}

#[cfg(feature = "train")]
impl VoteArgs {
    /// The vote from these flags and the variables of `touchline run`.
    ///
    /// # Errors
    /// [`touchline_core::error::Error::Usage`] naming the setting that cannot be used.
    pub(super) fn settings(&self) -> Result<VoteConfig> {
        #[derive(Serialize)]
        struct Flags<'a> {
            vote: &'a VoteArgs,
        }
        let flags = Flags { vote: self };
        Ok(super::settings_of(&flags, |key| key.path.starts_with("vote."), |name| std::env::var_os(name))?.vote)
    }
}
