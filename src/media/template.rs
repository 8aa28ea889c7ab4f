//! Pipeline templates: renders a template to a gst-launch description. Pure: does not parse the pipeline or need GStreamer.
//!
//! The built-in templates are in `pipelines/`, one per built-in kind ([`super::registry`]), with comments for every key. A user's file has the same form.

use super::uri::Location;
use touchline_core::error::{Error, Result};
use touchline_core::item::Tracks;

/// RTSP transports, joined by `+` in [`Keys::rtsp_transport`].
const RTSP_TRANSPORTS: [&str; 5] = ["udp", "udp-mcast", "tcp", "http", "tls"];

/// The values of a template's placeholders.
#[derive(Clone, Debug)]
pub struct Keys<'a> {
    /// The source.
    pub location: &'a Location,
    /// Maximum height of pictures, lines.
    pub frame_height: u32,
    /// Whether the appsinks wait for the clock.
    pub sync: bool,
    /// Jitter buffer of RTSP sources, milliseconds.
    pub latency_ms: u32,
    /// RTSP transports, joined by `+`, in the order in which they are tried.
    pub rtsp_transport: &'a str,
    /// Connect timeout, seconds.
    pub timeout_s: u32,
}

impl Keys<'_> {
    /// The value of placeholder `key`, not escaped; [`None`] if this kind of source has no such key.
    fn value(&self, key: &str) -> Option<String> {
        let or_endless = |n: Option<u64>| n.map_or("-1".to_owned(), |n| n.to_string());
        let test = self.location.test.as_ref();
        Some(match key {
            "uri" if test.is_none() => self.location.uri.clone(),
            "frame_height" => self.frame_height.to_string(),
            "sync" => self.sync.to_string(),
            "latency_ms" => self.latency_ms.to_string(),
            "rtsp_transport" => self.rtsp_transport.to_owned(),
            "timeout_s" => self.timeout_s.to_string(),
            // Half of the connect timeout, which leaves time for an attempt over TCP.
            "udp_timeout_us" => (u64::from(self.timeout_s) * 500_000).to_string(),
            // 2 MiB: a key frame of 500 KB at 25 Mbit/s arrives in one burst, and the kernel counts its overhead.
            "udp_buffer_bytes" => (2 << 20).to_string(),
            "live" => test?.live.to_string(),
            "width" => test?.width.to_string(),
            "height" => test?.height.to_string(),
            "fps" => format!("{}/{}", test?.fps.0, test?.fps.1),
            "video_buffers" => or_endless(test?.video_buffers()),
            "pattern" => test?.pattern.element_pattern().to_owned(),
            "speed" => test?.pattern.speed().to_string(),
            "audio_buffers" => or_endless(test?.seconds.map(|s| u64::from(s) * 100)),
            _ => return None,
        })
    }
}

/// Renders `template`: drops comments and the lines of unwanted tracks, fills placeholders, and joins the lines.
///
/// # Errors
/// [`Error::Usage`] for an unknown placeholder (with its line), an empty template and an unknown RTSP transport.
pub fn render(template: &str, keys: &Keys<'_>, wanted: Tracks) -> Result<String> {
    if !keys.rtsp_transport.split('+').all(|t| RTSP_TRANSPORTS.contains(&t)) {
        return Err(Error::Usage(format!(
            "RTSP transport \"{}\" is unknown; use {}, or several joined with +",
            keys.rtsp_transport,
            RTSP_TRANSPORTS.join(", ")
        )));
    }
    let mut out = String::new();
    for (number, line) in template.lines().enumerate() {
        let mut line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix("[video]") {
            if !wanted.video {
                continue;
            }
            line = rest.trim_start();
        } else if let Some(rest) = line.strip_prefix("[audio]") {
            if !wanted.audio {
                continue;
            }
            line = rest.trim_start();
        }
        // Caps write lists as { RGB, NV12 }: only a single word in braces is a placeholder.
        while let Some(open) = line.find('{') {
            let inside = &line[open + 1..];
            let length = inside.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(inside.len());
            if length == 0 || !inside[length..].starts_with('}') {
                out.push_str(&line[..=open]);
                line = inside;
                continue;
            }
            let key = &inside[..length];
            let value = keys.value(key).ok_or_else(|| {
                let kind = keys.location.kind.name();
                Error::Usage(format!("pipeline line {}: unknown placeholder {{{key}}} for a {kind} source", number + 1))
            })?;
            out.push_str(&line[..open]);
            out.push_str(&escape(&value));
            line = &inside[length + 1..];
        }
        out.push_str(line);
        out.push(' ');
    }
    if out.is_empty() {
        return Err(Error::Usage("the pipeline template is empty; start from a copy of one in pipelines/".into()));
    }
    Ok(out.trim_end().to_owned())
}

/// Escapes a value for the right side of `property=` in a gst-launch description.
///
/// Puts a backslash before everything except letters, digits and the characters of numbers and fractions. Quoting is unsafe: inside
/// quotes the grammar reads `\"` as a quote even after an escaped backslash, so a value could end the string early. Control
/// characters cannot be escaped and are dropped; in URIs they are percent-encoded already.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len() * 2);
    for c in value.chars().filter(|c| !c.is_control()) {
        if !(c.is_alphanumeric() || matches!(c, '-' | '.' | '/' | '+' | '_')) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// An address of each kind that has a built-in template.
#[cfg(test)]
pub(crate) const EXAMPLES: [&str; 8] = [
    "a.mp4",
    "http://h/a.mp4",
    "http://h/a.m3u8",
    "rtsp://h/a",
    "srt://h:1",
    "rtmp://h/a/b",
    "udp://h:1",
    "testsrc://?seconds=2",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uri::Kind;

    const BOTH: Tracks = Tracks { video: true, audio: true };

    fn keys(location: &Location) -> Keys<'_> {
        Keys { location, frame_height: 360, sync: false, latency_ms: 200, rtsp_transport: "udp+tcp", timeout_s: 10 }
    }

    #[test]
    fn every_built_in_template_renders_and_documents_each_key() {
        for given in EXAMPLES {
            let location = Location::parse(given).unwrap();
            let template = location.kind.spec().template.unwrap();
            let text = render(template, &keys(&location), BOTH).unwrap();
            assert!(text.contains("appsink name=video") && text.contains("appsink name=audio"), "{text}");
            assert!(!text.contains(['#', '{', '[']) || !text.contains("[video]"), "{text}");
            let silent = render(template, &keys(&location), Tracks { video: true, audio: false }).unwrap();
            assert!(silent.contains("name=video") && !silent.contains("name=audio"), "{silent}");
            let comments: String = template.lines().filter(|l| l.starts_with('#')).flat_map(|l| [l, "\n"]).collect();
            for (_, rest) in template
                .lines()
                .filter(|l| !l.starts_with('#'))
                .flat_map(|l| l.match_indices('{').map(move |(at, _)| (at, &l[at..])))
            {
                let key = &rest[..=rest.find('}').unwrap()];
                assert!(comments.contains(key), "{given}: {key} is not explained");
            }
        }
    }

    #[test]
    fn values_cannot_add_elements() {
        let location = Location { kind: Kind::Rtsp, uri: "rtsp://h/a ! fakesink name=\"x\" \\".into(), test: None };
        let text = render("rtspsrc location={uri} ! fakesink", &keys(&location), BOTH).unwrap();
        assert_eq!(text, "rtspsrc location=rtsp\\://h/a\\ \\!\\ fakesink\\ name\\=\\\"x\\\"\\ \\\\ ! fakesink");
    }

    #[test]
    fn braces_of_caps_stay() {
        let location = Location::parse("rtsp://h/a").unwrap();
        let text = render("a ! video/x-raw,format={ RGB, NV12 },height={frame_height} ! b", &keys(&location), BOTH);
        assert_eq!(text.unwrap(), "a ! video/x-raw,format={ RGB, NV12 },height=360 ! b");
    }

    #[test]
    fn mistakes_name_the_line() {
        let location = Location::parse("rtsp://h/a").unwrap();
        let error = |template: &str| render(template, &keys(&location), BOTH).unwrap_err().to_string();
        assert!(error("# c\nfakesrc name={nmae}").contains("line 2"));
        assert!(error("# only a comment\n").contains("empty"));
        assert!(error("videotestsrc num-buffers={video_buffers}").contains("rtsp source"));
        let mut keys = keys(&location);
        keys.rtsp_transport = "carrier-pigeon";
        assert!(render("fakesrc", &keys, BOTH).unwrap_err().to_string().contains("carrier-pigeon"));
    }
}
