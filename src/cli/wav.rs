//! `touchline wav`: writes the sound of a recording or a stream to a WAV file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use crossbeam_channel::bounded;

use super::paths::{output_path, refuse_inputs, shown};
use super::run::named;
use touchline_compute::models::pack::Pack;
use touchline_core::cause::Cause;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, LagLimits};
use touchline_core::clock::SystemClock;
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY, MediaItem};
use touchline_core::pcm::PcmChunk;
use touchline_core::redact;
use touchline_core::time::{NANOS_PER_SECOND, nanos_to_samples, samples_to_nanos};
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::wav::{SampleFormat, WavWriter};
use touchline_serve::config;

#[derive(Debug, Args)]
#[command(
    after_long_help = "The file has the source's sample rate and channels. Holes in the sound are silence, so that a place in the file \
is a place in the stream. The sizes in the file are right after each second: a run that is killed loses at most the last one. Files \
beyond 4 GiB are RF64.

Examples:
  touchline wav match.mp4 -o match.wav                   the original sound
  touchline wav match.mp4 -o heard.wav --model-input     what the sound model hears
  touchline wav rtsp://camera.example/live -o ten.wav --seconds 10"
)]
pub struct WavArgs {
    /// Recording, or URI of a stream.
    #[arg(value_name = "FILE|URI")]
    input: String,
    /// WAV file to write.
    #[arg(short, long, value_name = "FILE.wav", value_parser = output_path())]
    out: PathBuf,
    /// Write what the sound model hears: mono at the pack's sample rate, whole seconds.
    #[arg(long)]
    model_input: bool,
    /// Directory of the model pack, for --model-input [default: weights/compact].
    #[arg(long, value_name = "DIR", env = "TOUCHLINE_PACK")]
    pack: Option<PathBuf>,
    /// Sample format: 16-bit integers or 32-bit floating point.
    #[arg(long, default_value = "s16", value_parser = named::<SampleFormat>(&SampleFormat::NAMES))]
    format: SampleFormat,
    /// Stop after this many seconds of sound.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
}

pub fn wav(args: &WavArgs) -> Result<()> {
    if args.out == Path::new("-") {
        let text = "--out: the sizes of a WAV file are written last, so it cannot go to standard output; name a file";
        return Err(Error::Usage(text.into()));
    }
    refuse_inputs("--out", &args.out, [&args.input])?;
    let open_pack = || Pack::open(&config::find_pack(args.pack.as_deref())?);
    let pack = args.model_input.then(open_pack).transpose()?;
    let clock = Arc::new(SystemClock::new());
    let options = GstOptions { id: "wav".into(), want_video: false, ..GstOptions::default() };
    let opener = GstOpener::new(options, clock)?;
    let (to, items) = bounded(MEDIA_CHANNEL_CAPACITY);
    let source = opener.open(&args.input, to)?;
    let mut heard = match &pack {
        None => None,
        Some(pack) => {
            let Some(rate) = pack.sample_rate() else {
                return Err(Error::pack(
                    &pack.dir,
                    "has no sound model",
                    "choose another --pack, or omit --model-input",
                ));
            };
            let lag = LagLimits::for_pace(source.pace());
            let config = ClipConfig { sample_rate: Some(rate), plan: pack.plan.clone(), lag, behind_ns: 0 };
            Some((ClipBuilder::new(config), rate))
        }
    };
    let mut sound = SoundFile { out: &args.out, format: args.format, seconds: args.seconds, open: None };
    let mut outputs = Vec::new();
    let end = loop {
        // The channel ends only after the end of the source.
        let Ok(item) = items.recv() else { break End::Finished };
        let end = if let MediaItem::Ended(end) = &item { Some(end.clone()) } else { None };
        let is_full = match (&mut heard, item) {
            (Some((builder, rate)), item) => {
                builder.push(item, &mut outputs);
                let mut is_full = false;
                for output in outputs.drain(..) {
                    is_full |= sound.second(output, *rate)?;
                }
                is_full
            }
            (None, MediaItem::Pcm(chunk)) => sound.chunk(&chunk)?,
            (None, MediaItem::Discontinuity(_)) => sound.restart(),
            (None, _) => false,
        };
        match end {
            Some(end) => break end,
            None if is_full => break End::Finished,
            None => {}
        }
    };
    drop((source, items));
    let written = sound.finish()?;
    let name = || redact::uri(&args.input);
    match (end, written) {
        (End::Failed { kind, cause, advice }, _) => Err(Error::source_failure(kind, name(), cause, advice)),
        (End::Finished, None) => {
            Err(Error::source_failure(Cause::NotMedia, name(), "it has no sound", "give a source with an audio track"))
        }
        (End::Finished, Some(summary)) => {
            // A reader that has gone is not an error of the file.
            let _ = writeln!(std::io::stdout(), "{}: {summary}", shown(&args.out));
            Ok(())
        }
    }
}

/// The file, created with the first sound.
struct SoundFile<'a> {
    out: &'a Path,
    format: SampleFormat,
    /// The longest sound, seconds.
    seconds: Option<u32>,
    open: Option<OpenFile>,
}

struct OpenFile {
    writer: WavWriter<BufWriter<File>>,
    rate: u32,
    channels: u16,
    /// The longest sound, samples per channel.
    limit: u64,
    /// Samples per channel at the last flush.
    flushed: u64,
    /// Time at which the next chunk continues without a hole, ns; [`None`] after a discontinuity.
    next_ns: Option<u64>,
}

fn cannot_write(out: &Path, e: &io::Error) -> Error {
    Error::output(out.display().to_string(), format!("cannot write: {e}"), "free space, or choose another -o")
}

impl SoundFile<'_> {
    /// The open file for sound of this form.
    fn file(&mut self, rate: u32, channels: u16) -> Result<&mut OpenFile> {
        if let Some(open) = &self.open
            && (open.rate, open.channels) != (rate, channels)
        {
            let at = samples_to_nanos(open.writer.frames(), open.rate) as f64 / NANOS_PER_SECOND as f64;
            let cause = format!(
                "the sound changes from {} channels at {} Hz to {channels} at {rate} Hz after {at:.1} s, where the file ends",
                open.channels, open.rate
            );
            let advice = "use --model-input, which mixes and resamples";
            return Err(Error::output(self.out.display().to_string(), cause, advice));
        }
        if self.open.is_none() {
            let created = File::create(self.out)
                .and_then(|file| WavWriter::new(BufWriter::new(file), rate, channels, self.format));
            let writer = created.map_err(|e| cannot_write(self.out, &e))?;
            let limit = self.seconds.map_or(u64::MAX, |seconds| u64::from(seconds) * u64::from(rate));
            self.open = Some(OpenFile { writer, rate, channels, limit, flushed: 0, next_ns: None });
        }
        Ok(self.open.as_mut().expect("it was created above"))
    }

    /// Writes a chunk, at its place. Returns whether the file is full.
    fn chunk(&mut self, chunk: &PcmChunk) -> Result<bool> {
        let out = self.out;
        let open = match self.file(chunk.rate, chunk.channels) {
            Ok(open) => open,
            Err(e) => {
                self.finish()?;
                return Err(e);
            }
        };
        open.write_at(chunk).map_err(|e| cannot_write(out, &e))?;
        Ok(open.is_full())
    }

    /// Writes a second as the model hears it. Returns whether the file is full.
    fn second(&mut self, output: ClipOutput, rate: u32) -> Result<bool> {
        let samples = match output {
            ClipOutput::Second(second) => second.audio,
            ClipOutput::Gap(_) => None,
            _ => return Ok(false),
        };
        let out = self.out;
        // Seconds without sound at the beginning are silence as well.
        let open = self.file(rate, 1)?;
        if !open.is_full() {
            open.write_second(samples.as_deref()).map_err(|e| cannot_write(out, &e))?;
        }
        Ok(open.is_full())
    }

    /// The timeline starts over: no hole can be measured.
    fn restart(&mut self) -> bool {
        if let Some(open) = &mut self.open {
            open.next_ns = None;
        }
        false
    }

    /// Completes the file. Returns its description; [`None`] without sound.
    fn finish(&mut self) -> Result<Option<String>> {
        let Some(open) = &mut self.open else { return Ok(None) };
        open.writer.flush().map_err(|e| cannot_write(self.out, &e))?;
        let seconds = samples_to_nanos(open.writer.frames(), open.rate) as f64 / NANOS_PER_SECOND as f64;
        let channels = if open.channels == 1 { "1 channel".to_owned() } else { format!("{} channels", open.channels) };
        Ok(Some(format!("{seconds:.3} s, {} Hz, {channels}", open.rate)))
    }
}

impl OpenFile {
    fn is_full(&self) -> bool {
        self.writer.frames() >= self.limit
    }

    /// Writes a chunk after silence for a hole before it, and without samples that were written already.
    fn write_at(&mut self, chunk: &PcmChunk) -> io::Result<()> {
        let (start_ns, length_ns) = (chunk.pts.0, samples_to_nanos(chunk.frames() as u64, self.rate));
        let expected_ns = self.next_ns.unwrap_or(start_ns);
        // Counted on from the samples while the times agree, so that roundings do not add up.
        let agrees = expected_ns.abs_diff(start_ns) <= TOLERANCE_NS;
        let (mut skipped, from_ns) = (0, if agrees { expected_ns } else { start_ns });
        if !agrees && start_ns > expected_ns {
            self.writer.write_silence(nanos_to_samples(start_ns - expected_ns, self.rate))?;
        } else if !agrees {
            skipped = nanos_to_samples(expected_ns - start_ns, self.rate);
        }
        self.next_ns = Some(expected_ns.max(from_ns + length_ns));
        let left = self.limit.saturating_sub(self.writer.frames());
        let place = |frames: u64| {
            let values = usize::try_from(frames).unwrap_or(usize::MAX).saturating_mul(usize::from(self.channels));
            values.min(chunk.data.len())
        };
        self.writer.write(&chunk.data[place(skipped)..place(skipped.saturating_add(left))])?;
        self.flush_each_second()
    }

    /// Writes a second of samples, or of silence.
    fn write_second(&mut self, samples: Option<&[f32]>) -> io::Result<()> {
        match samples {
            Some(samples) => self.writer.write(samples)?,
            None => self.writer.write_silence(self.rate.into())?,
        }
        self.flush_each_second()
    }

    fn flush_each_second(&mut self) -> io::Result<()> {
        if self.writer.frames() - self.flushed < u64::from(self.rate) {
            return Ok(());
        }
        self.flushed = self.writer.frames();
        self.writer.flush()
    }
}

/// A distance of a chunk from the end of the one before that counts as rounding, ns.
const TOLERANCE_NS: u64 = 5_000_000;
