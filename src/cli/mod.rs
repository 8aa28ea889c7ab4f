//! The command line: one file a subcommand.

mod dataset;
mod doctor;
mod evaluate;
mod pack;
mod progress;
mod report;
mod run;
mod score;
mod source_worker;
mod train;

use clap::{Args, Parser, Subcommand, ValueEnum};

use touchline_compute::gpu::ElementType;
use touchline_compute::gpu::placement::{DeviceChoice, Placement};
use touchline_compute::models::pack::Pack;
use touchline_compute::nn::fused::{Level, Precision};
use touchline_core::error::{Error, Result};

/// Watches live sports broadcasts and says every second which sport is on.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_long_help = "Examples:
  touchline run rtsp://camera.example/live            watch a stream; the page is on http://127.0.0.1:8080
  touchline run https://tv.example/live.m3u8 --jsonl decisions.jsonl
  touchline run court1=srt://0.0.0.0:9000?mode=listener court2=udp://239.0.0.1:5000
  touchline score recordings/ --summary labels.csv    label files as fast as the machine allows
  touchline doctor                                    what is missing on this machine, and how to get it

Exit codes:
  0  all went well
  1  a fault of the program; please report it
  2  the command line or the configuration asks for something that cannot be
  3  a stream or file could not be opened, read or decoded
  4  the model pack is missing, damaged or does not fit
  5  an output cannot be written, or the address to listen on is taken
  6  training data are missing or do not fit
  7  some of several inputs failed; each was reported
  8  the GPU that was asked for cannot be used
  130  ended by a second interrupt, before what was under way was finished

Logging goes to standard error; RUST_LOG=touchline=debug shows more. Secrets in URLs are never shown."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch streams: probabilities per class every second, on a page, as JSON lines and as Prometheus metrics.
    Run(run::RunArgs),
    /// Label recordings and pictures offline, as fast as the machine allows.
    Score(score::ScoreArgs),
    /// Say what is missing on this machine (plugins, weights, GPU) and how to get it.
    Doctor(doctor::DoctorArgs),
    /// Make a dataset for training: cut recordings into seconds, divide them by source, count them.
    Dataset(dataset::DatasetArgs),
    /// Look into a model pack, or bring weights from elsewhere into one.
    Pack(pack::PackArgs),
    /// Train the models of a modality, or of all three, on a dataset.
    Train(train::TrainArgs),
    /// Measure a pack on a dataset's held-back side: seconds, recordings, each modality, fusion, calibration.
    Evaluate(evaluate::EvaluateArgs),
    /// Draw the report of a training or an evaluation again, as one HTML file.
    Report(report::ReportArgs),
    /// The process of one source.
    #[command(name = touchline_media::worker::SUBCOMMAND, hide = true)]
    SourceWorker(source_worker::SourceWorkerArgs),
}

/// How models are computed, for the commands that run them.
#[derive(Clone, Debug, Args)]
struct Compute {
    /// Numbers that models compute with: bf16 takes half the memory and, on processors with instructions for it, about half
    /// the time; auto takes it there, f16 on GPUs, and f32 elsewhere. int8, on the CPU, takes a quarter of the memory and, with
    /// AVX512_VNNI, about a quarter of the time; it wants a pack with the ranges of its values (touchline pack calibrate).
    #[arg(long, value_enum, default_value_t = WantedPrecision::Auto)]
    precision: WantedPrecision,
    /// What computes: auto (GPUs if there are any, else the CPU), cpu, cuda:0, or several GPUs as in cuda:0,1.
    #[arg(long, value_name = "DEVICE", env = "TOUCHLINE_DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WantedPrecision {
    Auto,
    F32,
    Bf16,
    Int8,
}

impl Compute {
    /// Tells the pack how its networks are to be run.
    ///
    /// # Errors
    /// [`Error::Usage`] when the device has no such numbers.
    fn place(&self, pack: &mut Pack) -> Result<()> {
        pack.precision = self.precision();
        let mut wish = self.device.clone();
        // Halves are what a GPU is fastest with, and f16 has three bits more than bf16.
        let numbers = match self.precision {
            WantedPrecision::Auto => ElementType::F16,
            WantedPrecision::F32 => ElementType::F32,
            WantedPrecision::Bf16 => ElementType::Bf16,
            WantedPrecision::Int8 => {
                if let DeviceChoice::Cuda(_) = wish {
                    let text =
                        format!("--precision int8 is for the CPU, not for {wish}; give --device cpu, or bf16 or f32");
                    return Err(Error::Usage(text));
                }
                wish = DeviceChoice::Cpu;
                ElementType::F16
            }
        };
        pack.placement = Placement { wish, numbers };
        Ok(())
    }

    fn precision(&self) -> Precision {
        match self.precision {
            WantedPrecision::Auto => Precision::fastest(Level::best()),
            WantedPrecision::F32 => Precision::F32,
            WantedPrecision::Bf16 => Precision::Bf16,
            WantedPrecision::Int8 => Precision::Int8,
        }
    }
}

/// What a command wants of the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    AsItIs,
    /// It takes and frees memory in large pieces, over and over, and ends.
    Keep,
    /// It runs for weeks, beside others.
    FewHeaps,
}

impl Cli {
    /// What the command wants of the allocator.
    pub fn memory(&self) -> Memory {
        match self.command {
            Command::Train(_) => Memory::Keep,
            Command::Run(_) => Memory::FewHeaps,
            _ => Memory::AsItIs,
        }
    }

    /// Whether the program that started this one reads its log.
    pub fn logs_to_program(&self) -> bool {
        matches!(self.command, Command::SourceWorker(_))
    }

    /// Runs the command.
    ///
    /// # Errors
    /// One line for a person, with the exit code of [`touchline_core::error::Error::exit_code`].
    pub fn execute(self) -> Result<()> {
        match self.command {
            Command::Run(args) => run::run(args),
            Command::Score(args) => score::score(args),
            Command::Doctor(args) => doctor::doctor(&args),
            Command::Dataset(args) => dataset::dataset(args),
            Command::Pack(args) => pack::pack(args),
            Command::Train(args) => train::train(args),
            Command::Evaluate(args) => evaluate::evaluate(args),
            Command::Report(args) => report::report(&args),
            Command::SourceWorker(args) => source_worker::source_worker(&args),
        }
    }
}
