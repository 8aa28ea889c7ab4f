//! `touchline export`: the segments of a stream as files for edit suites, players and people.

mod posters;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use url::Url;

use super::paths::{output_path, refuse_inputs, shown};
use super::run::named;
use touchline_core::error::{Error, Result};
use touchline_core::redact;
use touchline_core::redact::print_error_line;
use touchline_core::segment::SegmentedStream;
use touchline_core::timecode::FrameRate;
use touchline_media::hls::fetch_playlist;
use touchline_serve::export::{self, Export, ExportOptions, ExportPlacement, Format, Moment, Posters, TimeBase, plain};
use touchline_serve::record::format::parse_rfc3339;
use touchline_serve::record::reader::{self, RecordFile};

/// The largest playlist that is read, bytes: a week of two-second segments has 30 MB.
const PLAYLIST_MAX: u64 = 64 << 20;

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
  The timecode is that of the media where every second has one: from the timecode track of
  MP4 and MOV, or from SEI messages of H.264 and HEVC. Elsewhere, and with --offset or another
  --rate, it is counted from wall time where the records have it (live streams, and HLS with
  programme date-time), and from PTS where not. Wall time is the time of day in UTC.
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
    /// JSON lines that `touchline run` or `touchline score` wrote with --jsonl, "-" for standard input; or the state file
    /// (--state) of a program that is not running; it contains the last day.
    #[arg(long, value_name = "FILE|-")]
    from: PathBuf,
    /// Id of the stream, or path of the recording as `score` was given it. Needed if the file has several.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Exclude segments before this time: wall time such as 2026-03-29T14:00:00Z, or a PTS such as 1:02:03.5 or 90 (seconds).
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    from_time: Option<Moment>,
    /// Exclude segments that begin at or after this time.
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    to_time: Option<Moment>,
    /// Format of the output.
    #[arg(long, value_parser = named::<Format>(&Format::NAMES))]
    format: Format,
    /// Frames a second of the timecode [default: that of the media, else 25].
    #[arg(long, value_parser = rates())]
    rate: Option<FrameRate>,
    /// Timecode of the first second if positions are wall time, else of PTS 0.
    #[arg(long, value_name = "TIMECODE", allow_hyphen_values = true)]
    offset: Option<String>,
    /// Time base of the timecodes [default: the first of timecode, wall, pts that every second has].
    #[arg(long, value_parser = named::<TimeBase>(&TimeBase::NAMES))]
    time: Option<TimeBase>,
    /// Wall time of PTS 0, for records without wall time.
    #[arg(long, value_name = "TIME", value_parser = parse_rfc3339)]
    began: Option<i64>,
    /// Write the segments as consecutive clips (otio) or events (edl) instead of markers on the whole recording.
    #[arg(long)]
    cut: bool,
    /// Include unknown and undecided time and time without programme. csv and html always include them.
    #[arg(long)]
    all: bool,
    /// Show a picture of each segment in html. They come from the recording: --media, or the path that `score` was given.
    #[arg(long)]
    posters: bool,
    /// File or URL that otio and edl refer to, or file of --posters [default: the recording that `score` was given].
    #[arg(long, value_name = "FILE|URL")]
    media: Option<String>,
    /// HLS media playlist to insert the lines of daterange into: a file, or a web address, whose segments are then named in full.
    #[arg(long, value_name = "FILE.m3u8|URL")]
    playlist: Option<PathBuf>,
    /// File to write; "-" is standard output.
    #[arg(short, long, value_name = "FILE|-", value_parser = output_path())]
    output: PathBuf,
}

fn rates() -> impl TypedValueParser<Value = FrameRate> {
    PossibleValuesParser::new(FrameRate::NAMES).try_map(|name| FrameRate::parse(&name))
}

pub fn export(args: &ExportArgs) -> Result<()> {
    let named = [Some(args.from.as_path()), args.playlist.as_deref(), args.media.as_deref().map(Path::new)];
    refuse_inputs("--output", &args.output, named.into_iter().flatten())?;
    let place = shown(&args.from);
    let mut options = args.options()?;
    let file = read(&args.from, &place)?;
    warn_of_damage(&file, &place);
    let (id, stream) = choose(&file, args.stream.as_deref(), &place)?;
    // A recording is named by its path.
    refuse_inputs("--output", &args.output, [id])?;
    let mut export = Export::new(id, &file.classes, stream, &args.placement(), &place)?;
    export.is_silent = file.silent.contains(id);
    if args.posters {
        options.posters = posters::posters(&export, Path::new(args.media.as_deref().unwrap_or(id)))?;
    }
    options.media = options.media.or_else(|| Path::new(id).is_file().then(|| id.to_owned()));
    let rendered = export::render(&export, args.format, &options, &place)?;
    write(&args.output, rendered.as_bytes())?;
    if args.output != Path::new("-") {
        let count = export.segments.iter().filter(|placed| export.class(placed).is_some()).count();
        let other = export.segments.len() - count;
        print_error_line(format_args!("{}: {count} segments of classes, {other} others", shown(&args.output)));
    }
    Ok(())
}

impl ExportArgs {
    fn placement(&self) -> ExportPlacement {
        ExportPlacement {
            rate: self.rate,
            offset: self.offset.clone(),
            base: self.time,
            pts_zero_ns: self.began,
            from: self.from_time,
            to: self.to_time,
        }
    }

    fn options(&self) -> Result<ExportOptions> {
        // Asked before the pictures are decoded.
        if self.posters && self.format != Format::Html {
            return Err(Error::Usage("--posters is for --format html only; leave it out".into()));
        }
        let playlist = match self.playlist.as_deref() {
            Some(path) => Some(match web_address(path) {
                Some(url) => (redact::uri(url.as_str()), fetch(&url)?),
                None => (path.display().to_string(), read_playlist(path)?),
            }),
            None => None,
        };
        let options = ExportOptions {
            cut: self.cut,
            all: self.all,
            media: self.media.clone(),
            playlist,
            posters: Posters::new(),
        };
        options.check(self.format)?;
        Ok(options)
    }
}

/// The address, if `path` is one.
fn web_address(path: &Path) -> Option<Url> {
    Url::parse(path.to_str()?).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// # Errors
/// If the playlist cannot be fetched.
fn fetch(url: &Url) -> Result<String> {
    let _known = redact::remember(url.as_str());
    fetch_playlist(url, None).map_err(|e| Error::source_failure(e.kind, redact::uri(url.as_str()), e.cause, e.advice))
}

/// # Errors
/// If it cannot be read.
fn read_playlist(path: &Path) -> Result<String> {
    let place = shown(path);
    let failed = |cause: &str, advice: &str| Error::source_error(place.clone(), cause, advice);
    let unreadable = |e: std::io::Error| failed(&format!("cannot read it: {e}"), "check --playlist");
    if std::fs::metadata(path).map_err(unreadable)?.len() > PLAYLIST_MAX {
        return Err(failed("this is larger than a playlist", "give an HLS media playlist"));
    }
    std::fs::read_to_string(path).map_err(unreadable)
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
        if path == Path::new("-") {
            return Err(Error::source_error(place, "this is a state file", "name the file with --from"));
        }
        return reader::read(&touchline_serve::store::stored_seconds(path)?[..]).map_err(failed);
    }
    reader::read(BufReader::with_capacity(1 << 20, head.chain(from))).map_err(failed)
}

fn warn_of_damage(file: &RecordFile, place: &str) {
    if file.damaged == 0 {
        return;
    }
    let lines: Vec<String> =
        file.damaged_lines.iter().map(|(number, cause)| format!("line {number} ({})", plain(cause))).collect();
    let more = if file.damaged > lines.len() as u64 { " and more" } else { "" };
    let text = format!(
        "touchline: {place}: skipped {} damaged lines: {}{more}; the other {} were read",
        file.damaged,
        lines.join(", "),
        file.records
    );
    print_error_line(format_args!("{}", touchline_core::redact::text(&text)));
}

fn choose<'a>(file: &'a RecordFile, requested: Option<&str>, place: &str) -> Result<(&'a str, &'a SegmentedStream)> {
    /// Streams that a message names.
    const NAMED: usize = 8;
    let mut names: Vec<String> = file.streams.keys().take(NAMED).map(|id| format!("\"{}\"", plain(id))).collect();
    if file.streams.len() > NAMED {
        names.push(format!("and {} more", file.streams.len() - NAMED));
    }
    let names = names.join(", ");
    match requested {
        _ if file.streams.is_empty() => {
            let cause = "nothing to export: there is no second in it";
            let advice = "give the file that --jsonl of touchline run or touchline score wrote";
            Err(Error::source_error(place, cause, advice))
        }
        Some(id) => file.streams.get_key_value(id).map(|(id, stream)| (id.as_str(), stream)).ok_or_else(|| {
            Error::Usage(format!("--stream \"{}\": {place} has no such stream; it has {names}", plain(id)))
        }),
        None if file.streams.len() == 1 => {
            let (id, stream) = file.streams.first_key_value().expect("there is one");
            Ok((id, stream))
        }
        None => Err(Error::Usage(format!("{place} has several streams; choose one with --stream: {names}"))),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let place = if path == Path::new("-") { "standard output".into() } else { shown(path) };
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
