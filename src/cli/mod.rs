//! The command line: one file per subcommand.

#[cfg(feature = "train")]
mod adapt;
mod clips;
mod config;
#[cfg(feature = "train")]
mod dataset;
mod decide_args;
mod demo;
mod doctor;
#[cfg(feature = "train")]
mod evaluate;
mod export;
mod fleet;
mod fleet_args;
mod installation;
#[cfg(feature = "train")]
mod numbers;
mod pack;
mod paths;
mod progress;
mod render;
#[cfg(feature = "train")]
mod report;
mod run;
mod score;
mod signal;
mod source_worker;
mod stream;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod training;
mod vote;
mod wav;

use std::ffi::OsString;
use std::io::Write as _;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use touchline_compute::gpu::ElementType;
use touchline_compute::gpu::placement::{DeviceChoice, Placement};
use touchline_compute::models::pack::Pack;
use touchline_compute::nn::fused::{Level, Precision};
use touchline_core::error::{Error, Result};
use touchline_serve::config as settings;
use touchline_serve::config::{Key, PrecisionChoice, SettingSources, Settings};

/// Watches live sports broadcasts and reports every second which sport is on.
#[derive(Debug, Parser)]
#[command(
    version,
    long_version = installation::version(),
    max_term_width = 100,
    after_long_help = "Examples:
  touchline demo                                      two drawn channels, to see what it does
  touchline run rtsp://camera.example/live            watch a stream; the page is at http://127.0.0.1:8080
  touchline run https://tv.example/live.m3u8 --jsonl decisions.jsonl
  touchline run court1=srt://0.0.0.0:9000?mode=listener court2=udp://239.0.0.1:5000
  touchline score recordings/ --summary labels.csv    label files as fast as the machine allows
  touchline export --from decisions.jsonl --format edl -o match.edl      segments for an edit suite
  touchline render match.mp4 -o annotated.mp4         the label on the picture
  touchline config check touchline.toml               validate a configuration without running it
  touchline stream list --fleet nats://nats.example   the streams that machines share
  touchline fleet score submit s3://archive/2024 --name season24 --results s3://archive/labels
  touchline doctor                                    list what this machine lacks, and how to install it

Exit codes:
  0  success
  1  a fault of the program; please report it
  2  a flag, variable or configuration key is invalid
  3  a stream or file could not be opened, read or decoded
  4  the model pack is missing, damaged or unsuitable
  5  an output cannot be written, or the address to listen on is in use
  6  training data are missing or unsuitable
  7  some of the inputs failed; each was reported
  8  the requested GPU cannot be used
  130  stopped by a second interrupt before all work was finished

The log goes to standard error; RUST_LOG=touchline=debug shows more. Passwords and tokens are masked."
)]
pub struct Cli {
    /// Log format on standard error: text, or json (one object per line).
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t, env = "TOUCHLINE_LOG_FORMAT")]
    pub log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch streams. Publishes the probability of each class every second: on a page, as JSON lines, as metrics.
    Run(Box<run::RunArgs>),
    /// Show two channels of drawn scenes on the page, classified by the pack.
    Demo(demo::DemoArgs),
    /// Label recordings and still pictures offline, as fast as the machine allows.
    Score(score::ScoreArgs),
    /// Render a recording with its label on the pictures.
    Render(Box<render::RenderArgs>),
    /// Write the sound of a recording or a stream to a WAV file.
    Wav(wav::WavArgs),
    /// Write the segments of recorded decisions for edit suites, players and people: OTIO, EDL, WebVTT, HLS, CSV, HTML.
    Export(Box<export::ExportArgs>),
    /// Check a configuration file, show the merged settings, or print the schema of the file.
    Config(config::ConfigArgs),
    /// Add, list, move and remove the streams of a fleet, and drain its machines.
    Stream(Box<stream::StreamArgs>),
    /// Score archives with the machines of a fleet.
    Fleet(Box<fleet::FleetCommandArgs>),
    /// Report what this machine lacks (plugins, weights, GPU) and how to install it.
    Doctor(doctor::DoctorArgs),
    /// Build, calibrate or inspect a model pack, or import weights into one.
    Pack(pack::PackArgs),
    #[cfg(feature = "train")]
    #[command(flatten)]
    Training(training::TrainingCommand),
    /// Print the completions of a shell.
    Completions(installation::CompletionArgs),
    /// Write the manual pages.
    Manual(installation::ManualArgs),
    /// Receives and decodes one source, in a process of its own.
    #[command(name = touchline_media::worker::SUBCOMMAND, hide = true)]
    SourceWorker(source_worker::SourceWorkerArgs),
    /// Scores a part of a recording, in a process of its own.
    #[command(name = touchline_serve::archive::task::SUBCOMMAND, hide = true)]
    ArchiveWorker,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Device and number format, for the commands that run models.
#[derive(Clone, Debug, Args, Serialize)]
struct Compute {
    /// Number format of the models [default: auto] [env: TOUCHLINE_PRECISION]. bf16 needs half of f32's memory and, on some
    /// processors with instructions for it, about half the time. auto chooses bf16 where it is measured to be faster, f16 on GPUs
    /// and f32 elsewhere. int8 runs on the CPU only: it needs a quarter of f32's memory and, with AVX512_VNNI, about a quarter of the
    /// time; the pack must be calibrated for it (touchline pack calibrate).
    #[arg(long, value_parser = run::named::<PrecisionChoice>(&PrecisionChoice::NAMES))]
    precision: Option<PrecisionChoice>,
    /// Device that computes: auto (all GPUs, or the CPU if there are none), cpu, cuda:0, or several GPUs as in cuda:0,1
    /// [default: auto] [env: TOUCHLINE_DEVICE].
    #[arg(long, value_name = "DEVICE", value_parser = run::checked::<DeviceChoice>)]
    device: Option<String>,
}

impl Compute {
    #[cfg(feature = "train")]
    /// Sets how the pack's networks run: by the flags, or else the environment.
    ///
    /// # Errors
    /// [`Error::Usage`] when the device does not have such numbers.
    fn place(&self, pack: &mut Pack) -> Result<()> {
        let chosen = settings_of(self, Self::has, |name| std::env::var_os(name))?;
        place(pack, chosen.precision, &chosen.device)
    }

    fn has(key: &Key) -> bool {
        ["device", "precision"].contains(&key.path.as_str())
    }
}

/// Settings from `flags` and, for the keys that `is_ours` selects, from variables that `read` reads. All others are defaults.
///
/// # Errors
/// [`Error::Usage`] naming the setting that cannot be used.
fn settings_of(
    flags: &impl Serialize,
    is_ours: impl Fn(&Key) -> bool,
    read: impl Fn(&str) -> Option<OsString>,
) -> Result<Settings> {
    let (environment, problems) = settings::environment(read, is_ours);
    let sources = SettingSources { environment, problems, flags: settings::flags(flags), ..SettingSources::default() };
    settings::resolve(sources).map_err(|problems| settings::refused(&problems))
}

/// Writes to standard output.
///
/// # Errors
/// [`Error::Output`] if nothing reads it.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| Error::output("standard output", e.to_string(), "check what reads it"))
}

/// Sets how the pack's networks run.
///
/// # Errors
/// [`Error::Usage`] when the device does not have such numbers.
fn place(pack: &mut Pack, precision: PrecisionChoice, device: &DeviceChoice) -> Result<()> {
    pack.precision = match precision {
        PrecisionChoice::Auto => Precision::fastest(Level::best()),
        PrecisionChoice::F32 => Precision::F32,
        PrecisionChoice::Bf16 => Precision::Bf16,
        PrecisionChoice::Int8 => Precision::Int8,
    };
    let mut requested = device.clone();
    // GPUs are fastest with 16 bits, and f16 has three bits of precision more than bf16.
    let numbers = match precision {
        PrecisionChoice::Auto => ElementType::F16,
        PrecisionChoice::F32 => ElementType::F32,
        PrecisionChoice::Bf16 => ElementType::Bf16,
        PrecisionChoice::Int8 => {
            if let DeviceChoice::Cuda(_) = requested {
                let text =
                    format!("--precision int8 runs on the CPU only, not on {requested}; use --device cpu, bf16 or f32");
                return Err(Error::Usage(text));
            }
            requested = DeviceChoice::Cpu;
            ElementType::F16
        }
    };
    pack.placement = Placement { requested, numbers };
    Ok(())
}

/// How a command uses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocatorProfile {
    /// No special settings.
    Default,
    /// It allocates and frees large blocks over and over, and ends.
    #[cfg_attr(not(feature = "train"), expect(dead_code, reason = "only training does so"))]
    Keep,
    /// It runs for weeks, beside other programs.
    TwoArenas,
}

impl Cli {
    /// How the command uses memory.
    pub fn memory(&self) -> AllocatorProfile {
        match self.command {
            #[cfg(feature = "train")]
            Command::Training(training::TrainingCommand::Train(_)) => AllocatorProfile::Keep,
            Command::Run(_) | Command::Demo(_) => AllocatorProfile::TwoArenas,
            _ => AllocatorProfile::Default,
        }
    }

    /// Whether the parent process reads the log.
    pub fn logs_to_program(&self) -> bool {
        matches!(self.command, Command::SourceWorker(_))
    }

    /// Runs the command.
    ///
    /// # Errors
    /// One line for a person, with the exit code of [`touchline_core::error::Error::exit_code`].
    pub fn execute(self) -> Result<()> {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Demo(args) => demo::demo(&args),
            Command::Score(args) => score::score(args),
            Command::Render(args) => render::render(&args),
            Command::Wav(args) => wav::wav(&args),
            Command::Export(args) => export::export(&args),
            Command::Config(args) => config::config(args),
            Command::Stream(args) => stream::stream(*args),
            Command::Fleet(args) => fleet::fleet(*args),
            Command::Doctor(args) => doctor::doctor(&args),
            Command::Pack(args) => pack::pack(args),
            #[cfg(feature = "train")]
            Command::Training(command) => command.execute(),
            Command::Completions(args) => {
                installation::completions(&args);
                Ok(())
            }
            Command::Manual(args) => installation::manual(&args),
            Command::SourceWorker(args) => source_worker::source_worker(&args),
            Command::ArchiveWorker => score::work(),
        }
    }
}
