//! The flags of a fleet, for `touchline run`, `touchline stream` and `touchline pack`. They serialise to the keys of `[fleet]`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::run::checked;
use touchline_core::error::{Error, Result};
use touchline_serve::config::{Capacity, FleetSettings};

/// The flags as keys of the file.
#[derive(Serialize)]
struct FleetFlags<'a> {
    fleet: &'a FleetLogin,
}

/// Name, address and login of a fleet.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Fleet")]
pub struct FleetLogin {
    /// Address of the NATS server that the machines of a fleet share: tls://HOST:PORT or nats://HOST:PORT.
    #[arg(long = "fleet", value_name = "URL", global = true)]
    url: Option<String>,
    /// Name of the fleet [default: main].
    #[arg(long = "fleet-name", value_name = "NAME", global = true)]
    name: Option<String>,
    /// The user of the login to NATS.
    #[arg(long = "fleet-user", value_name = "NAME", global = true)]
    user: Option<String>,
    /// File with the password of that user; without a user, a token.
    #[arg(long = "fleet-secret-file", value_name = "FILE", global = true)]
    secret_file: Option<PathBuf>,
    /// File with the credentials of a NATS user (.creds), or with the seed of an nkey.
    #[arg(long = "fleet-credentials-file", value_name = "FILE", global = true)]
    credentials_file: Option<PathBuf>,
    /// Certificates of the authorities that the server's certificate may come from (PEM) [default: those of the system].
    #[arg(long = "fleet-ca-file", value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
    /// Certificate chain that the server may ask for (PEM). Needs --fleet-client-key.
    #[arg(long = "fleet-client-cert", value_name = "FILE", global = true)]
    client_cert: Option<PathBuf>,
    /// Private key of that certificate (PEM).
    #[arg(long = "fleet-client-key", value_name = "FILE", global = true)]
    client_key: Option<PathBuf>,
}

impl FleetLogin {
    /// The settings of the fleet, from these flags and the environment.
    ///
    /// # Errors
    /// [`Error::Usage`] for a value that cannot be used, and when no fleet is given.
    pub fn settings(&self) -> Result<FleetSettings> {
        let flags = FleetFlags { fleet: self };
        let settings = super::settings_of(&flags, |key| key.path.starts_with("fleet."), |name| std::env::var_os(name))?;
        settings.fleet.ok_or_else(|| {
            Error::Usage("no fleet is given; add --fleet nats://HOST:4222, or set TOUCHLINE_FLEET".to_owned())
        })
    }
}

/// A machine of a fleet.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Fleet")]
pub struct FleetArgs {
    #[command(flatten)]
    #[serde(flatten)]
    login: FleetLogin,
    /// Name of this machine in the fleet, which no other has [default: the host name].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Cost of the streams that this machine can watch, in thousandths of a processor core; auto is 80 % of the processors
    /// [default: auto].
    #[arg(long, value_name = "auto|N", value_parser = checked::<Capacity>)]
    capacity: Option<String>,
    /// What this machine has, separated by commas, as in site=oslo,gpu=true. A stream that needs a label is watched by a machine that
    /// has it.
    #[arg(long, value_name = "NAME=VALUE,…", value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// Folder of the spool of records that NATS has not accepted yet [default: touchline-spool/NODE beside the file of --state, or in
    /// the working directory].
    #[arg(long = "fleet-spool", value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Bound of that spool, 1 to 1000000 [default: 256]. Beyond it the oldest records are dropped and counted.
    #[arg(long = "fleet-spool-max-mb", value_name = "MB")]
    spool_max_mb: Option<u32>,
    /// Folder of the packs that this machine fetches from the fleet [default: touchline-packs/NODE beside the file of --state, or in the
    /// working directory].
    #[arg(long = "fleet-packs", value_name = "DIR")]
    packs: Option<PathBuf>,
    /// Address of this machine's page for people (http or https). Pages of other machines lead there.
    #[arg(long = "fleet-page", value_name = "URL")]
    page: Option<String>,
    /// Show the streams of the other machines as well [default: true]. Each machine then reads the records of all.
    #[arg(long = "fleet-follow", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    follow: Option<bool>,
    /// Store what the other machines publish as well, with --state [default: true]. Then the history of each machine is that of the fleet; a
    /// stream that is watched for a day takes 3 MB.
    #[arg(long = "fleet-history", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    history: Option<bool>,
    /// Limit of the hand-over of all streams when the program stops, 0 to 3600 [default: 15].
    #[arg(long = "fleet-drain-s", value_name = "SECONDS")]
    drain_s: Option<u32>,
    /// Score recordings of the fleet (touchline fleet score) while streams leave room [default: true].
    #[arg(long = "fleet-archives", value_name = "true|false")]
    archives: Option<bool>,
}
