//! `touchline export`: the segments of a stream as files for edit suites, players and people. One file per format.

mod csv;
mod daterange;
mod edl;
mod html;
mod otio;
mod place;
mod posters;
#[cfg(test)]
mod testing;
mod text;
mod webvtt;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Deserialize;

use self::place::{Export, ExportPlacement, Moment, TimeBase};
use self::posters::Posters;
use super::run::named;
use touchline_core::error::{Error, Result};
use touchline_core::segment::SegmentedStream;
use touchline_core::timecode::FrameRate;
use touchline_serve::publish::format::parse_rfc3339;
use touchline_serve::publish::record_reader::{self, RecordFile};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Otio,
    Edl,
    WebVtt,
    #[serde(rename = "webvtt-metadata")]
    WebVttMetadata,
    Csv,
    Html,
    DateRange,
}

impl Format {
    const NAMES: [&str; 7] = ["otio", "edl", "webvtt", "webvtt-metadata", "csv", "html", "daterange"];
}

#[derive(Debug, Args)]
#[command(
    after_long_help = "A segment is the time in which one class was on air. Its start and end are dated back to the change of the \
picture: events lag behind it, because the vote needs several seconds. A segment never spans a reconnect or a jump of time stamps.

Formats:
  otio             OpenTimelineIO: one clip of the source with a marker per segment;
                   with --cut one clip per segment
  edl              CMX 3600: one event and one locator per segment;
                   with --cut the events follow each other from 01:00:00:00
  webvtt           chapters for a <track kind=\"chapters\">
  webvtt-metadata  the same cues with JSON, for a <track kind=\"metadata\">
  daterange        EXT-X-DATERANGE lines; with --playlist a copy of an HLS playlist with them
  csv              one row per segment
  html             one self-contained page to look at and to print

Time:
  Positions are wall time where the records have it (live streams, and HLS with programme
  date-time), and PTS elsewhere. As timecode, wall time is the time of day in UTC.
  --offset gives the timecode of the first second (wall time) or of PTS 0.
  29.97df and 59.94df count in drop-frame timecode.
  WebVTT counts from the first second (wall time) or from PTS 0.

Examples:
  touchline score match.mp4 --jsonl match.jsonl
  touchline export --from match.jsonl --format otio -o match.otio
  touchline export --from match.jsonl --format html --posters -o match.html
  touchline export --from match.jsonl --format edl --rate 29.97df \\
      --offset '10:00:00;00' -o match.edl
  touchline export --from decisions.jsonl --stream court1 --format edl --cut \\
      --from-time 2026-03-29T14:00:00Z --to-time 2026-03-29T16:00:00Z -o court1.edl
  touchline export --from decisions.jsonl --stream court1 --format daterange \\
      --playlist court1.m3u8 -o court1-marked.m3u8"
)]
pub struct ExportArgs {
    /// JSON lines that `touchline run` or `touchline score` wrote with --jsonl; "-" is standard input.
    #[arg(long, value_name = "FILE|-")]
    from: PathBuf,
    /// Id of the stream, or path of the recording as `score` was given it. Needed if the file has several.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Leave out what is before this time: wall time such as 2026-03-29T14:00:00Z, or a PTS such as 1:02:03.5 or 90 (seconds).
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    from_time: Option<Moment>,
    /// Leave out what begins at this time or later.
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    to_time: Option<Moment>,
    /// Format of the output.
    #[arg(long, value_parser = named::<Format>(&Format::NAMES))]
    format: Format,
    /// Frames a second of the timecode.
    #[arg(long, default_value = "25", value_parser = rates())]
    rate: FrameRate,
    /// Timecode of the first second if positions are wall time, else of PTS 0.
    #[arg(long, value_name = "TIMECODE", allow_hyphen_values = true)]
    offset: Option<String>,
    /// What positions are [default: wall if every record has it, else pts].
    #[arg(long, value_parser = named::<TimeBase>(&TimeBase::NAMES))]
    time: Option<TimeBase>,
    /// Wall time of PTS 0, for records without wall time.
    #[arg(long, value_name = "TIME", value_parser = parse_rfc3339)]
    began: Option<i64>,
    /// Cut the source: one clip (otio) or event (edl) after the other.
    #[arg(long)]
    cut: bool,
    /// Also unknown and undecided time, and time without programme. csv and html always have them.
    #[arg(long)]
    all: bool,
    /// Show a picture of each segment in html. They come from the recording: --media, or the path that `score` was given.
    #[arg(long)]
    posters: bool,
    /// File or URL that otio and edl refer to, or file of --posters [default: the recording that `score` was given].
    #[arg(long, value_name = "FILE|URL")]
    media: Option<String>,
    /// HLS media playlist to insert the lines of daterange into.
    #[arg(long, value_name = "FILE.m3u8")]
    playlist: Option<PathBuf>,
    /// File to write; "-" is standard output.
    #[arg(short, long, value_name = "FILE|-")]
    output: PathBuf,
}

fn rates() -> impl TypedValueParser<Value = FrameRate> {
    PossibleValuesParser::new(FrameRate::NAMES).try_map(|name| FrameRate::parse(&name))
}

pub fn export(args: &ExportArgs) -> Result<()> {
    args.check()?;
    let place = text::plain(&args.from.display().to_string());
    let file = read(&args.from, &place)?;
    warn_of_damage(&file, &place);
    let (id, stream) = choose(&file, args.stream.as_deref(), &place)?;
    let export = Export::new(id, &file.classes, stream, &args.placement()?, &place)?;
    let shown = if args.all { export.clone() } else { export.of_classes() };
    // Csv and html have everything in any case.
    if !matches!(args.format, Format::Csv | Format::Html) {
        refuse_nothing(&shown, &place)?;
    }
    let rendered = match args.format {
        Format::Csv => csv::render(&export)?,
        Format::Html => html::render(&export, &args.posters_of(&export)?),
        Format::Otio => otio::render(&shown, args.media.as_deref(), args.cut),
        Format::Edl => edl::render(&shown, args.media.as_deref(), args.cut)?,
        Format::WebVtt => webvtt::chapters(&shown),
        Format::WebVttMetadata => webvtt::metadata(&shown),
        Format::DateRange => {
            let lines = daterange::lines(&shown)?;
            match &args.playlist {
                Some(playlist) => daterange::insert(playlist, &lines)?,
                None => lines,
            }
        }
    };
    write(&args.output, rendered.as_bytes())?;
    if args.output != Path::new("-") {
        let count = export.segments.iter().filter(|placed| export.class(placed).is_some()).count();
        let other = export.segments.len() - count;
        eprintln!("{}: {count} segments of classes, {other} others", text::plain(&args.output.display().to_string()));
    }
    Ok(())
}

impl ExportArgs {
    fn placement(&self) -> Result<ExportPlacement> {
        let offset = self.offset.as_deref().map(|text| self.rate.parse_timecode(text)).transpose();
        Ok(ExportPlacement {
            rate: self.rate,
            offset: offset.map_err(|e| Error::Usage(format!("--offset: {e}")))?,
            base: self.time,
            pts_zero_ns: self.began,
            from: self.from_time,
            to: self.to_time,
        })
    }

    fn posters_of(&self, export: &Export<'_>) -> Result<Posters> {
        if !self.posters {
            return Ok(Posters::new());
        }
        posters::posters(export, Path::new(self.media.as_deref().unwrap_or(export.stream)))
    }

    /// Refuses arguments that do not fit together.
    fn check(&self) -> Result<()> {
        let is = |formats: &[Format]| formats.contains(&self.format);
        if self.cut && !is(&[Format::Otio, Format::Edl]) {
            return Err(Error::Usage("--cut is for --format otio and edl only; leave it out".into()));
        }
        if self.posters && !is(&[Format::Html]) {
            return Err(Error::Usage("--posters is for --format html only; leave it out".into()));
        }
        if self.playlist.is_some() && !is(&[Format::DateRange]) {
            return Err(Error::Usage("--playlist is for --format daterange only; leave it out".into()));
        }
        let same = |a: &Path, b: &Path| a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
        let inputs = [Some(&self.from), self.playlist.as_ref()];
        // A device may be both.
        if self.output.is_file() && inputs.into_iter().flatten().any(|input| same(input, &self.output)) {
            let place = text::plain(&self.output.display().to_string());
            return Err(Error::Usage(format!(
                "--output {place} is the input and would be replaced; name another file"
            )));
        }
        Ok(())
    }
}

fn read(path: &Path, place: &str) -> Result<RecordFile> {
    let failed = |e: std::io::Error| {
        let advice = "give the file that --jsonl of touchline run or touchline score wrote";
        Error::source_error(place, format!("cannot read it: {e}"), advice)
    };
    let mut from: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = File::open(path).map_err(failed)?;
        if file.metadata().is_ok_and(|meta| meta.is_dir()) {
            return Err(Error::source_error(place, "this is a folder", "give a file of JSON lines"));
        }
        Box::new(file)
    };
    const SQLITE: &[u8] = b"SQLite format 3\0";
    let mut head = Vec::new();
    from.by_ref().take(SQLITE.len() as u64).read_to_end(&mut head).map_err(failed)?;
    if head == SQLITE {
        let cause = "this is a state file, which has events but no seconds to date segments by";
        let advice = "export from JSON lines, which touchline run --jsonl FILE writes";
        return Err(Error::source_error(place, cause, advice));
    }
    record_reader::read(BufReader::with_capacity(1 << 20, head.chain(from))).map_err(failed)
}

fn warn_of_damage(file: &RecordFile, place: &str) {
    if file.damaged == 0 {
        return;
    }
    let lines: Vec<String> =
        file.damaged_lines.iter().map(|(number, cause)| format!("line {number} ({})", text::plain(cause))).collect();
    let more = if file.damaged > lines.len() as u64 { " and more" } else { "" };
    let text = format!(
        "touchline: {place}: skipped {} damaged lines: {}{more}; the other {} were read",
        file.damaged,
        lines.join(", "),
        file.records
    );
    eprintln!("{}", touchline_core::redact::text(&text));
}

fn choose<'a>(file: &'a RecordFile, wish: Option<&str>, place: &str) -> Result<(&'a str, &'a SegmentedStream)> {
    /// Streams that a message names.
    const NAMED: usize = 8;
    let mut names: Vec<String> = file.streams.keys().take(NAMED).map(|id| format!("\"{}\"", text::plain(id))).collect();
    if file.streams.len() > NAMED {
        names.push(format!("and {} more", file.streams.len() - NAMED));
    }
    let names = names.join(", ");
    match wish {
        _ if file.streams.is_empty() => {
            let cause = "nothing to export: there is no second in it";
            let advice = "give the file that --jsonl of touchline run or touchline score wrote";
            Err(Error::source_error(place, cause, advice))
        }
        Some(id) => file.streams.get_key_value(id).map(|(id, stream)| (id.as_str(), stream)).ok_or_else(|| {
            Error::Usage(format!("--stream \"{}\": {place} has no such stream; it has {names}", text::plain(id)))
        }),
        None if file.streams.len() == 1 => {
            let (id, stream) = file.streams.first_key_value().expect("there is one");
            Ok((id, stream))
        }
        None => Err(Error::Usage(format!("{place} has several streams; choose one with --stream: {names}"))),
    }
}

/// Refuses an export of nothing.
fn refuse_nothing(export: &Export<'_>, place: &str) -> Result<()> {
    if export.segments.is_empty() {
        let cause = "nothing to export: no class was on air in the selected time";
        return Err(Error::source_error(place, cause, "choose another time, or --all for the time without a class"));
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let place =
        if path == Path::new("-") { "standard output".into() } else { text::plain(&path.display().to_string()) };
    let failed = |e: std::io::Error| {
        let advice = "free space, check the folder and its permissions, or choose another --output";
        let text = e.to_string();
        let cause = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        Error::output(place.clone(), format!("cannot write: {cause}"), advice)
    };
    if path == Path::new("-") {
        let mut out = std::io::stdout().lock();
        return out.write_all(bytes).and_then(|()| out.flush()).map_err(failed);
    }
    let mut file = File::create(path).map_err(&failed)?;
    file.write_all(bytes).and_then(|()| file.flush()).map_err(|e| {
        // Half a file would be taken for a whole one.
        if file.metadata().is_ok_and(|meta| meta.is_file()) {
            let _ = std::fs::remove_file(path);
        }
        failed(e)
    })
}
