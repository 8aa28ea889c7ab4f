//! `touchline wav`: writes the sound of a recording or a stream to a WAV file.

mod writer;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use crossbeam_channel::bounded;

use self::writer::{SampleFormat, WavWriter};
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
    #[arg(short, long, value_name = "FILE.wav")]
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
    let pack = match args.model_input {
        true => Some(Pack::open(&config::find_pack(args.pack.as_deref())?)?),
        false => None,
    };
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
    let mut sound = SoundFile { out: &args.out, format: args.format, open: None, seconds: args.seconds };
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
            let _ = writeln!(std::io::stdout(), "{}: {summary}", args.out.display());
            Ok(())
        }
    }
}

/// The file, created with the first sound.
struct SoundFile<'a> {
    out: &'a Path,
    format: SampleFormat,
    open: Option<OpenFile>,
    /// The longest sound, seconds.
    seconds: Option<u32>,
}

struct OpenFile {
    writer: WavWriter<BufWriter<File>>,
    rate: u32,
    channels: u16,
    /// Samples per channel at the last flush.
    flushed: u64,
    /// Time at which the next chunk continues without a hole, ns; [`None`] after a discontinuity.
    next_ns: Option<u64>,
}

impl SoundFile<'_> {
    fn cannot(&self, e: &std::io::Error) -> Error {
        Error::output(self.out.display().to_string(), format!("cannot write: {e}"), "free space, or choose another -o")
    }

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
            return Err(Error::output(
                self.out.display().to_string(),
                cause,
                "use --model-input, which mixes and resamples",
            ));
        }
        if self.open.is_none() {
            let created = File::create(self.out)
                .and_then(|file| WavWriter::new(BufWriter::new(file), rate, channels, self.format));
            let writer = created.map_err(|e| self.cannot(&e))?;
            self.open = Some(OpenFile { writer, rate, channels, flushed: 0, next_ns: None });
        }
        Ok(self.open.as_mut().expect("it was created above"))
    }

    /// Writes a chunk, at its place. Returns whether the file is full.
    fn chunk(&mut self, chunk: &PcmChunk) -> Result<bool> {
        let (out, seconds) = (self.out.display().to_string(), self.seconds);
        let open = match self.file(chunk.rate, chunk.channels) {
            Ok(open) => open,
            Err(e) => {
                self.finish()?;
                return Err(e);
            }
        };
        let channels = usize::from(chunk.channels);
        let mut data = &chunk.data[..];
        let start_ns = chunk.pts.0;
        let written = (|| {
            if let Some(next_ns) = open.next_ns {
                // Times are rounded, by up to a millisecond in some containers.
                let hole = start_ns.saturating_sub(next_ns);
                if hole > TOLERANCE_NS {
                    open.writer.write_silence(nanos_to_samples(hole, open.rate))?;
                }
                let repeated = next_ns.saturating_sub(start_ns);
                if repeated > TOLERANCE_NS {
                    let skip = usize::try_from(nanos_to_samples(repeated, open.rate)).unwrap_or(usize::MAX);
                    data = &data[skip.saturating_mul(channels).min(data.len())..];
                }
            }
            if let Some(seconds) = seconds {
                let left = (u64::from(seconds) * u64::from(open.rate)).saturating_sub(open.writer.frames());
                data = &data[..usize::try_from(left).unwrap_or(usize::MAX).saturating_mul(channels).min(data.len())];
            }
            open.writer.write(data)
        })();
        let end_ns = start_ns + samples_to_nanos(chunk.frames() as u64, open.rate);
        // Counted on from the samples while the times agree, so that roundings do not add up.
        open.next_ns = Some(match open.next_ns {
            Some(next_ns) if next_ns.abs_diff(start_ns) <= TOLERANCE_NS => {
                next_ns + samples_to_nanos(chunk.frames() as u64, open.rate)
            }
            next_ns => next_ns.map_or(end_ns, |next_ns| next_ns.max(end_ns)),
        });
        let is_full = seconds.is_some_and(|n| open.writer.frames() >= u64::from(n) * u64::from(open.rate));
        let done = written.and_then(|()| open.flush_each_second());
        done.map_err(|e| Error::output(out, format!("cannot write: {e}"), "free space, or choose another -o"))?;
        Ok(is_full)
    }

    /// Writes a second as the model hears it. Returns whether the file is full.
    fn second(&mut self, output: ClipOutput, rate: u32) -> Result<bool> {
        let samples = match output {
            ClipOutput::Second(second) => second.audio,
            ClipOutput::Gap(_) => None,
            _ => return Ok(false),
        };
        let seconds = self.seconds;
        // Seconds without sound at the beginning are silence as well.
        let open = self.file(rate, 1)?;
        let is_over = |open: &OpenFile| seconds.is_some_and(|n| open.writer.frames() >= u64::from(n) * u64::from(rate));
        if is_over(open) {
            return Ok(true);
        }
        let written = match samples {
            Some(samples) => open.writer.write(&samples),
            None => open.writer.write_silence(rate.into()),
        };
        let done = written.and_then(|()| open.flush_each_second());
        let is_full = is_over(open);
        done.map_err(|e| self.cannot(&e))?;
        Ok(is_full)
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
        let flushed = open.writer.flush();
        let seconds = samples_to_nanos(open.writer.frames(), open.rate) as f64 / NANOS_PER_SECOND as f64;
        let channels = if open.channels == 1 { "1 channel".to_owned() } else { format!("{} channels", open.channels) };
        let summary = format!("{seconds:.3} s, {} Hz, {channels}", open.rate);
        flushed.map_err(|e| self.cannot(&e))?;
        Ok(Some(summary))
    }
}

impl OpenFile {
    fn flush_each_second(&mut self) -> std::io::Result<()> {
        if self.writer.frames() - self.flushed < u64::from(self.rate) {
            return Ok(());
        }
        self.flushed = self.writer.frames();
        self.writer.flush()
    }
}

/// A distance of a chunk from the end of the one before that counts as rounding, ns.
const TOLERANCE_NS: u64 = 5_000_000;
