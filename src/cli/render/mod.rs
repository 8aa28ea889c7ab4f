//! `touchline render`: a recording with the label on its pictures.

mod labels;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use self::labels::SecondsByRun;
use super::decide_args::DecideArgs;
use super::paths::{refuse_inputs_of, shown};
use super::progress::Bar;
use super::run::named;
use super::score::decide;
use touchline_core::cause::Cause;
use touchline_core::error::{Error, Result};
use touchline_core::markup::plain;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::gst::output::{
    DEFAULT_BITRATE_KBPS, Encoder, Encoding, LabelForm, LabelMode, OutputAddress, OutputCause, RenderRequest,
    recording_length, render_recording,
};
use touchline_media::overlay::{OverlayOptions, Position, SAFE_AREA_MAX, SIZE_MAX};

#[derive(Debug, Args)]
#[command(
    after_long_help = "Each picture shows the estimate of its own second. Seconds without a decision have no label. The pictures are \
encoded again with H.264; the sound is passed through if the output can hold its coding, and becomes AAC otherwise. With --decisions, no \
model runs: the records must be those of this recording.

Examples:
  touchline render match.mp4 -o annotated.mp4
  touchline score match.mp4 --jsonl match.jsonl && touchline render match.mp4 --decisions match.jsonl -o bars.mp4 --overlay bars
  touchline render match.ts -o hls:annotated --overlay own.svg --overlay-position top-right
  touchline render match.ts -o labelled.ts --overlay-mode metadata"
)]
pub struct RenderArgs {
    /// Recording.
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Output: an .mp4, .mkv or .ts file, or hls:DIR for an HLS playlist with segments.
    #[arg(short, long, value_name = "FILE|hls:DIR")]
    output: PathBuf,
    /// Decisions of this recording, written by `touchline score --jsonl`. Without it, render runs the models itself.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["pack", "tier", "precision", "device"])]
    decisions: Option<PathBuf>,
    /// The stream of the decisions, where the file has several.
    #[arg(long, value_name = "ID", requires = "decisions")]
    stream: Option<String>,
    /// How the output has the label: drawn on the pictures, or as metadata beside pictures that are not encoded again (KLV packets in a
    /// .ts file, a WebVTT rendition in hls:DIR).
    #[arg(long, value_name = "MODE", default_value = "draw", value_parser = named::<LabelMode>(&LabelMode::NAMES))]
    overlay_mode: LabelMode,
    /// The label: bug, label, bars, or the path of an SVG file [default: label].
    #[arg(long, value_name = "NAME|FILE.svg")]
    overlay: Option<String>,
    /// Position of the label on the picture [default: from the template].
    #[arg(long, value_name = "POSITION", value_parser = named::<Position>(&Position::NAMES))]
    overlay_position: Option<Position>,
    /// Height of the label in percent of the picture's shorter side [default: from the template].
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=i64::from(SIZE_MAX)))]
    overlay_size: Option<u32>,
    /// Margin between the label and each edge of the picture in percent [default: from the template].
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=i64::from(SAFE_AREA_MAX)))]
    overlay_safe_area: Option<u32>,
    /// Font file in place of the system's sans-serif font.
    #[arg(long, value_name = "FILE")]
    overlay_font: Option<PathBuf>,
    /// Video encoder: x264 (CPU) or va (GPU, through VA-API).
    #[arg(long, default_value = "x264", value_parser = named::<Encoder>(&Encoder::NAMES))]
    encoder: Encoder,
    /// Highest bit rate of the pictures, kbit/s.
    #[arg(long, value_name = "KBPS", default_value_t = DEFAULT_BITRATE_KBPS, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    bitrate_kbps: u32,
    #[command(flatten)]
    decide: DecideArgs,
}

pub fn render(args: &RenderArgs) -> Result<()> {
    let place = shown(&args.input);
    let output = args.address()?;
    touchline_media::gst::init()?;
    let form = args.form()?;
    std::fs::metadata(&args.input).map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { Cause::NotFound } else { Cause::Other };
        Error::source_failure(kind, &place, e.to_string(), "check the path")
    })?;
    let seconds = Arc::new(match &args.decisions {
        Some(path) => SecondsByRun::read(path, args.stream.as_deref())?,
        None => args.decide()?,
    });
    let shown = output.shown();
    let request = RenderRequest {
        media: &args.input,
        output: &output,
        form,
        labels: Arc::new(move |run, second| seconds.label(run, second)),
    };
    let mut bar: Option<Bar> = None;
    let rendered = render_recording(request, &mut |done, of| {
        bar.get_or_insert_with(|| Bar::new("seconds", of)).set(done);
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    let summary = rendered.map_err(|e| match e.cause {
        OutputCause::Media => Error::source_failure(Cause::NotMedia, place, e.text, e.cause.advice()),
        cause => Error::output(plain(&shown), e.text, cause.advice()),
    })?;
    let sound = if summary.has_sound { "with sound" } else { "without sound" };
    let seconds = summary.length_ns as f64 / NANOS_PER_SECOND as f64;
    // A reader that has gone is not an error of the file.
    let _ = std::io::Write::write_all(
        &mut std::io::stdout(),
        format!("{shown}: {seconds:.1} s, {} pictures, {sound}\n", summary.pictures).as_bytes(),
    );
    Ok(())
}

impl RenderArgs {
    fn form(&self) -> Result<LabelForm> {
        let options = OverlayOptions {
            template: self.overlay.clone(),
            position: self.overlay_position,
            size: self.overlay_size,
            safe_area: self.overlay_safe_area,
            font: self.overlay_font.clone(),
        };
        let encoding = Encoding { encoder: self.encoder, bitrate_kbps: self.bitrate_kbps };
        LabelForm::new(self.overlay_mode, &options, encoding, "--encoder").map_err(Error::Usage)
    }

    /// The output, which is not the input.
    fn address(&self) -> Result<OutputAddress> {
        let usage = |text: String| Error::Usage(format!("--output: {text}"));
        let text = self.output.to_str().ok_or_else(|| usage("the name is not UTF-8; rename it".into()))?;
        let address = OutputAddress::parse(text).map_err(usage)?;
        refuse_inputs_of("--output", &address, [&self.input])?;
        self.overlay_mode.check(&address).map_err(usage)?;
        match &address {
            OutputAddress::File(..) | OutputAddress::Hls(_) => Ok(address),
            _ => Err(usage(format!(
                "{}: recordings are rendered into files; give an .mp4, .mkv or .ts file, or hls:DIR",
                address.shown()
            ))),
        }
    }

    /// The decisions as `touchline score` makes them.
    fn decide(&self) -> Result<SecondsByRun> {
        let mut seconds = SecondsByRun::default();
        // A file that cannot be read is reported by what decides it.
        let length_ns = recording_length(&self.input).unwrap_or(0);
        let mut bar = Bar::new("seconds decided", length_ns.div_ceil(NANOS_PER_SECOND));
        let mut decided = 0;
        let result = decide(&self.decide, &self.input, &mut |records| {
            decided += 1;
            bar.set(decided);
            records.iter().try_for_each(|record| seconds.add(record))
        });
        bar.finish();
        result.map(|()| seconds)
    }
}
