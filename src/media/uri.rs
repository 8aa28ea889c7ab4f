//! Classifies URIs by kind of source. Pure: opens nothing and needs no GStreamer.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use url::Url;

use super::registry::{self, Own, Spec};
use touchline_core::cause::Cause;
use touchline_core::error::{Error, Result};
use touchline_core::item::Pace;
use touchline_core::{redact, userinfo};

/// The kind of a source. [`registry::BUILT_IN`] has a row with the properties of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Kind {
    /// A recording on disk.
    File,
    /// A recording on a web server.
    Http,
    /// An HLS playlist on a web server, live or on demand.
    Hls,
    /// An endless stream on a web server: MPEG-TS, packed audio, or Motion JPEG.
    HttpLive,
    /// An RTSP server.
    Rtsp,
    /// SRT, as caller or listener.
    Srt,
    /// An RTMP server.
    Rtmp,
    /// MPEG-TS in UDP datagrams.
    Udp,
    /// The built-in moving pattern and tone.
    TestSrc,
    /// A source of your own ([`registry::register`]).
    Own(&'static Own),
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.name().into()
    }
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        registry::kinds()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("no source {name:?} is registered here"))
    }
}

impl Kind {
    /// Everything that is known of it.
    pub fn spec(self) -> &'static Spec {
        match self {
            Kind::Own(own) => &own.spec,
            _ => {
                let row = registry::BUILT_IN.iter().find(|(kind, _)| *kind == self);
                &row.expect("each kind that ships has a row").1
            }
        }
    }

    /// The name in messages.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Whether data come over a network, so that silence for seconds is a failure.
    pub fn is_network(self) -> bool {
        self.spec().is_network
    }

    /// The cause to report when a source of this kind stalls.
    pub fn stall_cause(self) -> Cause {
        self.spec().stall_cause
    }

    /// Whether an end of stream is unexpected, so that a supervisor opens the source again.
    pub fn reopens_on_end(self) -> bool {
        self.spec().reopens_on_end
    }
}

/// How fast media are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pacing {
    /// Live sources as data arrive, HLS at its own pace, recordings as fast as the machine allows.
    #[default]
    Auto,
    /// Recordings at their own pace as well (`--realtime`).
    Realtime,
    /// Everything as fast as data arrive and downstream takes them, including HLS. No seconds are shed.
    Unpaced,
}

/// A classified source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The kind of source.
    pub kind: Kind,
    /// The URI for GStreamer: ASCII, percent-encoded. It contains secrets and must never be printed.
    pub uri: String,
    /// The options of `testsrc://`; [`None`] for all other kinds.
    pub test: Option<TestOptions>,
}

/// What the pictures of `testsrc://` show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TestPattern {
    /// A moving pinwheel, which is classified like any picture.
    #[default]
    Pinwheel,
    /// SMPTE colour bars.
    Bars,
    /// A black picture.
    Black,
    /// The pinwheel, standing still.
    Still,
}

impl TestPattern {
    const NAMED: [(&str, TestPattern); 4] =
        [("pinwheel", Self::Pinwheel), ("bars", Self::Bars), ("black", Self::Black), ("still", Self::Still)];

    /// The pattern of GStreamer's `videotestsrc`.
    pub const fn element_pattern(self) -> &'static str {
        match self {
            Self::Pinwheel | Self::Still => "pinwheel",
            Self::Bars => "smpte",
            Self::Black => "black",
        }
    }

    /// By how many pixels a picture moves against the previous one.
    pub const fn speed(self) -> u32 {
        if matches!(self, Self::Still) { 0 } else { 2 }
    }
}

/// The options of `testsrc://?seconds=10&width=640&height=360&fps=30&pattern=bars&audio=0&video=0&live=1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestOptions {
    /// Length; [`None`]: endless.
    pub seconds: Option<u32>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frame rate, numerator and denominator.
    pub fps: (u32, u32),
    /// The content of the pictures.
    pub pattern: TestPattern,
    /// Whether there are pictures.
    pub video: bool,
    /// Whether there is sound.
    pub audio: bool,
    /// Paced by the clock. The default for an endless source, which would otherwise keep the machine fully busy.
    pub live: bool,
}

impl TestOptions {
    /// Number of pictures that begin within `seconds`.
    pub fn video_buffers(&self) -> Option<u64> {
        let (num, den) = self.fps;
        self.seconds.map(|s| (u64::from(s) * u64::from(num)).div_ceil(u64::from(den)))
    }
}

impl Location {
    /// Classifies `given`, a URI or a path.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown scheme or an invalid address. The text is redacted.
    pub fn parse(given: &str) -> Result<Self> {
        // Masks the credentials in errors about it for a while. The opener keeps them masked afterwards.
        drop(redact::remember(given));
        let Some((scheme, rest)) = split_scheme(given) else { return from_path(Path::new(given), given) };
        let scheme = scheme.to_ascii_lowercase();
        let kind = match registry::by_scheme(&scheme) {
            Some(Kind::File) => {
                let path = Url::parse(given).ok().and_then(|u| u.to_file_path().ok()).ok_or_else(|| {
                    Error::Usage(format!("{given}: not a valid file URI; write file:///absolute/path or just the path"))
                })?;
                return from_path(&path, given);
            }
            Some(Kind::TestSrc) => {
                let test = test_options(rest)?;
                return Ok(Self { kind: Kind::TestSrc, uri: given.to_owned(), test: Some(test) });
            }
            // The source parses the rest after the scheme.
            Some(kind @ Kind::Own(_)) => return Ok(Self { kind, uri: given.to_owned(), test: None }),
            Some(Kind::Http) if is_playlist(rest) => Kind::Hls,
            Some(kind) => kind,
            None => {
                return Err(Error::Usage(format!(
                    "{}: unknown scheme \"{scheme}\"; known are {}, or a path without a scheme",
                    redact::uri(given),
                    registry::schemes().join(", ")
                )));
            }
        };
        if rest.is_empty() || rest.starts_with('/') {
            return Err(Error::Usage(format!("{}: the host is missing; write {scheme}://HOST…", redact::uri(given))));
        }
        let clear = userinfo::canonical(given)
            // srt://:9000 and udp://@:5004 (listen on all interfaces) are valid without a host.
            .filter(|clear| matches!(kind, Kind::Srt | Kind::Udp) || Url::parse(clear).is_ok())
            .ok_or_else(|| {
                let (shown, advice) = (redact::uri(given), userinfo::ADVICE);
                Error::Usage(format!("{shown}: not a valid URL; check host and port, and {advice}"))
            })?;
        Ok(Self { kind, uri: percent_encode(&clear), test: None })
    }

    /// Whether the source or downstream sets the pace under `pacing`.
    pub fn pace(&self, pacing: Pacing) -> Pace {
        match self.kind {
            Kind::Hls if pacing == Pacing::Unpaced => Pace::File,
            Kind::TestSrc if !self.test.is_some_and(|t| t.live) => Pace::File,
            kind => kind.spec().pace,
        }
    }

    /// The maximum delay between a picture being taken and its arrival, ns, with a jitter buffer of `latency_ms` for RTSP. These are
    /// typical values, because no protocol reports the delay. 0 for recordings, whose arrival time has no meaning.
    pub fn behind_ns(&self, latency_ms: u32) -> u64 {
        let spec = self.kind.spec();
        let buffer_ms = if spec.has_jitter_buffer { u64::from(latency_ms) } else { 0 };
        u64::try_from(spec.delay.as_nanos()).unwrap_or(u64::MAX).saturating_add(buffer_ms * 1_000_000)
    }

    /// Whether the source waits for callers: an SRT listener.
    pub fn listens(&self) -> bool {
        let rest = self.uri.split_once("://").map_or("", |(_, rest)| rest);
        let (host, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mode = query.split('&').find_map(|pair| pair.strip_prefix("mode="));
        self.kind == Kind::Srt && mode.map_or(host.starts_with(':'), |mode| mode == "listener")
    }

    /// Whether the appsinks wait for the clock.
    ///
    /// HLS segments arrive in bursts of several seconds, which a live consumer would have to shed, so HLS is paced by default.
    /// Whether a playlist is on demand is known only after it was fetched, so it is treated as live.
    pub fn sync(&self, pacing: Pacing) -> bool {
        match pacing {
            Pacing::Unpaced => false,
            // A playlist comes in bursts and is paced. An endless stream is sent as it arrives.
            Pacing::Auto => self.kind.spec().is_bursty,
            Pacing::Realtime => self.kind.spec().is_bursty || self.pace(pacing) == Pace::File,
        }
    }
}

/// Scheme and the text after `://`, if `given` begins with a scheme.
fn split_scheme(given: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = given.split_once("://")?;
    let mut chars = scheme.chars();
    let valid = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    valid.then_some((scheme, rest))
}

fn from_path(path: &Path, given: &str) -> Result<Location> {
    if given.is_empty() {
        return Err(Error::Usage("an empty source; give a URI or a path".into()));
    }
    let absolute = std::path::absolute(path)
        .map_err(|e| Error::Usage(format!("{given}: cannot make an absolute path: {e}; give the whole path")))?;
    let uri = Url::from_file_path(&absolute)
        .map_err(|()| Error::Usage(format!("{given}: not a usable path; give the whole path")))?;
    Ok(Location { kind: Kind::File, uri: uri.into(), test: None })
}

/// Whether the path of an HTTP URL (without scheme) has the extension of a playlist.
fn is_playlist(rest: &str) -> bool {
    let path = rest.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    path.ends_with(".m3u8") || path.ends_with(".m3u")
}

/// Percent-encodes characters that are invalid in a URI: controls, spaces, quotes, brackets and everything beyond ASCII.
fn percent_encode(uri: &str) -> String {
    let mut out = String::with_capacity(uri.len());
    for byte in uri.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'\'' => {
                out.push_str(&format!("%{byte:02X}"));
            }
            0x21..=0x7e => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn test_options(rest: &str) -> Result<TestOptions> {
    let query = rest.split_once('?').map_or("", |(_, q)| q);
    let wrong = |what: String| Error::Usage(format!("testsrc://{rest}: {what}"));
    let mut pairs: BTreeMap<&str, &str> = BTreeMap::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| wrong(format!("option {pair} has no value; write {pair}=…")))?;
        if pairs.insert(key, value).is_some() {
            return Err(wrong(format!("option {key} is given twice")));
        }
    }
    let mut number = |key: &'static str, least: u32, most: u32| -> Result<Option<u32>> {
        let Some(value) = pairs.remove(key) else { return Ok(None) };
        match value.parse::<u32>() {
            Ok(n) if (least..=most).contains(&n) => Ok(Some(n)),
            _ => Err(wrong(format!("{key} must be a whole number from {least} to {most}, not {value}"))),
        }
    };
    let seconds = number("seconds", 1, 86_400)?;
    let width = number("width", 16, 7680)?.unwrap_or(640);
    let height = number("height", 16, 4320)?.unwrap_or(360);
    let video = number("video", 0, 1)?.is_none_or(|v| v == 1);
    let audio = number("audio", 0, 1)?.is_none_or(|v| v == 1);
    let live = number("live", 0, 1)?.map_or(seconds.is_none(), |v| v == 1);
    let fps = match pairs.remove("fps") {
        None => (30, 1),
        Some(text) => frame_rate(text).ok_or_else(|| {
            wrong(format!("fps must be a number from 1 to 240 such as 25, 29.97 or 30000/1001, not {text}"))
        })?,
    };
    let pattern = match pairs.remove("pattern") {
        None => TestPattern::default(),
        Some(name) => TestPattern::NAMED
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, pattern)| *pattern)
            .ok_or_else(|| {
                wrong(format!("pattern must be {}, not {name}", TestPattern::NAMED.map(|(name, _)| name).join(", ")))
            })?,
    };
    if let Some(key) = pairs.keys().next() {
        return Err(wrong(format!(
            "unknown option {key}; known are seconds, width, height, fps, pattern, video, audio and live"
        )));
    }
    if !video && !audio {
        return Err(wrong("video=0 and audio=0 leave nothing".into()));
    }
    Ok(TestOptions { seconds, width, height, fps, pattern, video, audio, live })
}

/// `25`, `30000/1001`, or one of the usual decimals for NTSC rates.
fn frame_rate(text: &str) -> Option<(u32, u32)> {
    let fraction = match text {
        "23.976" | "23.98" => (24_000, 1001),
        "29.97" => (30_000, 1001),
        "59.94" => (60_000, 1001),
        _ => match text.split_once('/') {
            Some((num, den)) => (num.parse().ok()?, den.parse().ok()?),
            None => (text.parse().ok()?, 1),
        },
    };
    let (num, den) = fraction;
    (den > 0 && num <= 1_000_000 && (1..=240).contains(&(num / den))).then_some(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_pace_follow_from_the_uri() {
        for (given, kind, pace) in [
            ("rtsp://cam/live", Kind::Rtsp, Pace::Live),
            ("RTSPS://ann:pw@cam:322/live", Kind::Rtsp, Pace::Live),
            ("https://h.example/a/master.m3u8?token=x.mp4", Kind::Hls, Pace::Live),
            ("http://h.example/A.M3U8", Kind::Hls, Pace::Live),
            ("http://h.example/a.mp4?list=x.m3u8", Kind::Http, Pace::File),
            ("srt://:9000?mode=listener", Kind::Srt, Pace::Live),
            ("rtmp://h.example/live/key", Kind::Rtmp, Pace::Live),
            ("udp://@239.1.2.3:5004", Kind::Udp, Pace::Live),
            ("file:///media/a%20b.mkv", Kind::File, Pace::File),
            ("/media/a b.mkv", Kind::File, Pace::File),
            ("a.ts", Kind::File, Pace::File),
            ("testsrc://", Kind::TestSrc, Pace::Live),
            ("testsrc://?seconds=3", Kind::TestSrc, Pace::File),
            ("testsrc://?seconds=3&live=1", Kind::TestSrc, Pace::Live),
        ] {
            let location = Location::parse(given).unwrap();
            assert_eq!((location.kind, location.pace(Pacing::Auto)), (kind, pace), "{given}");
        }
    }

    #[test]
    fn listeners_are_distinguished_from_callers() {
        for (given, listens) in [
            ("srt://:9000", true),
            ("srt://:9000?mode=listener", true),
            ("srt://0.0.0.0:9000?latency=200&mode=listener", true),
            ("srt://:9000?mode=caller", false),
            ("srt://h:9000", false),
            ("srt://h:9000?mode=rendezvous", false),
            ("rtsp://h/x?mode=listener", false),
        ] {
            assert_eq!(Location::parse(given).unwrap().listens(), listens, "{given}");
        }
    }

    #[test]
    fn only_hls_and_realtime_recordings_wait_for_the_clock() {
        let sync = |given: &str, pacing| Location::parse(given).unwrap().sync(pacing);
        assert!(sync("http://h/a.m3u8", Pacing::Auto));
        assert!(!sync("http://h/a.m3u8", Pacing::Unpaced));
        assert!(!sync("a.mp4", Pacing::Auto));
        assert!(sync("a.mp4", Pacing::Realtime));
        assert!(!sync("rtsp://h/a", Pacing::Realtime));
        assert_eq!(Location::parse("http://h/a.m3u8").unwrap().pace(Pacing::Unpaced), Pace::File);
    }

    #[test]
    fn unknown_schemes_are_reported_with_the_known_ones_and_no_secret() {
        let error = Location::parse("gopher://ann:geheim99@h/x?key=verysecret").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(error.contains("\"gopher\"") && error.contains("rtsp, rtsps"), "{error}");
        assert!(!error.contains("geheim99") && !error.contains("verysecret"), "{error}");
        assert!(Location::parse("rtsp:///live").is_err());
        assert!(Location::parse("http://h:notaport/a.mp4").is_err());
        assert!(Location::parse("").is_err());
        let error = Location::parse("rtsp://ann:p@ss/word@cam/live").unwrap_err().to_string();
        assert!(error.contains("@ as %40") && !error.contains("ss/word") && !error.contains("p@ss"), "{error}");
    }

    #[test]
    fn special_characters_of_a_login_are_encoded() {
        let uri = Location::parse("rtsp://ann:p@ss#1/x?:é@127.0.0.1:8554/digest").unwrap().uri;
        assert_eq!(uri, "rtsp://ann:p%40ss%231%2Fx%3F%3A%C3%A9@127.0.0.1:8554/digest");
    }

    #[test]
    fn paths_become_encoded_uris() {
        assert_eq!(Location::parse("/a b/ü\"!.mp4").unwrap().uri, "file:///a%20b/%C3%BC%22!.mp4");
        assert_eq!(Location::parse("file:///a%20b/c.mp4").unwrap().uri, "file:///a%20b/c.mp4");
        assert_eq!(Location::parse("rtsp://h/a b\"c").unwrap().uri, "rtsp://h/a%20b%22c");
    }

    #[test]
    fn test_options_are_checked() {
        let options = |given: &str| Location::parse(given).map(|l| l.test.unwrap());
        let o = options("testsrc://?seconds=2&width=321&height=241&fps=29.97&audio=0").unwrap();
        assert_eq!((o.width, o.height, o.fps, o.audio, o.video), (321, 241, (30_000, 1001), false, true));
        assert_eq!(o.video_buffers(), Some(60));
        for bad in [
            "fps=0",
            "fps=1/0",
            "seconds=x",
            "width=1",
            "colour=red",
            "pattern=red",
            "audio",
            "audio=0&video=0",
            "live=2",
        ] {
            assert!(options(&format!("testsrc://?{bad}")).is_err(), "{bad}");
        }
    }
}
