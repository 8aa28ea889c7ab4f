//! `touchline fleet`: what the machines of a fleet do besides watching streams.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::decide_args::DecideArgs;
use super::fleet_args::FleetLogin;
use super::print;
use super::score::{expand, is_recording};
use touchline_compute::models::pack::Pack;
use touchline_core::clock::SystemClock;
use touchline_core::error::{Error, Result};
use touchline_serve::archive::objects::FoundObject;
use touchline_serve::archive::view::JobView;
use touchline_serve::archive::{ArchiveAdmin, NewJob};
use touchline_serve::config;

/// Addresses of stores, by their scheme.
const STORES: [&str; 5] = ["s3://", "gs://", "az://", "http://", "https://"];

#[derive(Debug, Args)]
pub struct FleetCommandArgs {
    #[command(flatten)]
    fleet: FleetLogin,
    #[command(subcommand)]
    command: FleetCommand,
}

#[derive(Debug, Subcommand)]
enum FleetCommand {
    /// Score recordings with the machines of a fleet, while live streams leave room.
    #[command(
        subcommand,
        after_long_help = "Examples:
  touchline fleet score submit s3://archive/2024 --name season24 --results s3://archive/labels
  touchline fleet score submit /srv/recordings @more.txt --name local --results /srv/labels --part-minutes 10
  touchline fleet score status season24
  touchline fleet score retry season24

The address of the fleet can be in TOUCHLINE_FLEET, and its name in TOUCHLINE_FLEET_NAME. The logins of stores are in the variables of \
each machine (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT; GOOGLE_SERVICE_ACCOUNT_PATH; AZURE_STORAGE_ACCOUNT_NAME, \
AZURE_STORAGE_ACCOUNT_KEY) and nowhere else. Files and folders must have the same \
path on every machine."
    )]
    Score(ScoreCommand),
}

#[derive(Debug, Subcommand)]
enum ScoreCommand {
    /// Put recordings on the queue of the fleet. What the job has already is not scored again.
    Submit(Box<SubmitArgs>),
    /// Show how far jobs are.
    Status {
        #[arg(value_name = "NAME")]
        job: Option<String>,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Queue the recordings that were set aside again, and all that are not done after a cancellation.
    Retry {
        #[arg(value_name = "NAME")]
        job: String,
    },
    /// Cancel a job. Its results stay.
    Cancel {
        #[arg(value_name = "NAME")]
        job: String,
    },
}

#[derive(Debug, Args)]
struct SubmitArgs {
    /// Recordings: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, https://HOST/FILE, a folder, a file, or @LIST, a file
    /// with one of these on each line.
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<String>,
    /// Name of the job: letters, digits, '-' and '_'.
    // Not `name`: that is the id of --fleet-name.
    #[arg(long = "name", value_name = "NAME")]
    job: String,
    /// Where the results go: the address of a store or a folder. There they are NAME/RECORDING.jsonl, as of touchline score --jsonl, and
    /// NAME/RECORDING.parquet, a row for each second.
    #[arg(long, value_name = "URL|DIR")]
    results: String,
    /// Length of the parts that long recordings are divided into, 1 to 1440 minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1440))]
    part_minutes: u64,
    /// Length of the parts in seconds, for tests.
    #[arg(long, hide = true, conflicts_with = "part_minutes")]
    part_seconds: Option<u64>,
    #[command(flatten)]
    decide: DecideArgs,
}

pub fn fleet(args: FleetCommandArgs) -> Result<()> {
    let fleet = args.fleet.settings()?;
    let connect = || ArchiveAdmin::connect(&fleet, Arc::new(SystemClock::new()));
    let FleetCommand::Score(command) = args.command;
    match command {
        ScoreCommand::Submit(args) => {
            let pack = Pack::open(&config::find_pack(args.decide.pack.as_deref())?)?;
            let variables = args.decide.variables(|name| std::env::var_os(name))?;
            let part_seconds = args.part_seconds.unwrap_or(args.part_minutes * 60);
            let results = address(&args.results)?;
            let sources = listed(&args.sources)?;
            let admin = connect()?;
            let mut recordings = Vec::new();
            for source in &sources {
                recordings.extend(find(&admin, source)?);
            }
            let name = args.job;
            let new = NewJob { name: name.clone(), results, pack: pack.stamp(), variables, part_seconds };
            let submitted = admin.submit(&new, &recordings)?;
            let (added, known) = (submitted.added, submitted.known);
            print(&format!("job {name}: {added} recordings are queued, {known} were known\n"))
        }
        ScoreCommand::Status { job, json } => {
            let views = connect()?.status(job.as_deref())?;
            let json_of = || serde_json::to_string_pretty(&views).expect("a view is structs, texts and numbers");
            print(&if json { format!("{}\n", json_of()) } else { views.iter().map(table).collect() })
        }
        ScoreCommand::Retry { job } => {
            let count = connect()?.retry(&job)?;
            print(&format!("job {job}: {count} recordings are queued again\n"))
        }
        ScoreCommand::Cancel { job } => {
            connect()?.cancel(&job)?;
            print(&format!("job {job} is cancelled\n"))
        }
    }
}

/// The sources, with those of lists.
fn listed(sources: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for source in sources {
        let Some(path) = source.strip_prefix('@') else {
            all.push(source.clone());
            continue;
        };
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::Usage(format!("list {path}: {e}; give a file with one recording on each line")))?;
        all.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    Ok(all)
}

fn is_store(source: &str) -> bool {
    STORES.iter().any(|scheme| source.starts_with(scheme))
}

/// The address of a store, or of a folder.
fn address(place: &str) -> Result<String> {
    if is_store(place) || place.starts_with("file://") {
        return Ok(place.to_owned());
    }
    let unusable = |e: &dyn std::fmt::Display| {
        Error::Usage(format!("{place}: {e}; give a folder, or an address as s3://BUCKET/PREFIX"))
    };
    let path = std::path::absolute(place).map_err(|e| unusable(&e))?;
    url::Url::from_file_path(&path).map(String::from).map_err(|()| unusable(&"not a path"))
}

/// The recordings of a source.
fn find(admin: &ArchiveAdmin, source: &str) -> Result<Vec<FoundObject>> {
    if is_store(source) {
        return admin.find(source, is_recording);
    }
    let path = std::path::absolute(source).unwrap_or_else(|_| PathBuf::from(source));
    let mut found = Vec::new();
    for file in expand(std::slice::from_ref(&path))? {
        found.extend(admin.find(&address(&file.to_string_lossy())?, |_| true)?);
    }
    Ok(found)
}

fn table(view: &JobView) -> String {
    let mut text = String::new();
    let JobView { name, recordings, done, running, waiting, results, pack, .. } = view;
    let state = if view.is_cancelled { " (cancelled)" } else { "" };
    // Writing to a string cannot fail.
    let aside = view.set_aside.len();
    let _ = writeln!(text, "{name}{state}: {recordings} recordings, pack {pack}, results in {results}");
    for (count, what) in [(*done, "done"), (*running, "running"), (*waiting, "waiting"), (aside, "set aside")] {
        let _ = writeln!(text, "  {count:>8}  {what}");
    }
    let rate = view.rate.map_or("-".to_owned(), |rate| format!("{rate:.1} seconds of media a second"));
    let eta = view.eta_s.map_or("-".to_owned(), |eta| format!("{}:{:02}:{:02}", eta / 3600, eta / 60 % 60, eta % 60));
    let _ = writeln!(text, "  {:>8}  seconds decided; rate {rate}; time left {eta}", view.seconds);
    for part in &view.working {
        let number = if part.part == 0 { String::new() } else { format!(", part {}", part.part) };
        let _ = writeln!(text, "  running    {}{number} on {}", part.recording, part.node);
    }
    for aside in &view.set_aside {
        let _ = writeln!(text, "  set aside  {}: {}", aside.recording, aside.reason);
    }
    text
}
