//! Pipeline templates: text in, gst-launch description out. Pure: does not parse the pipeline, needs no GStreamer.
//!
//! The embedded templates lie in `pipelines/`, one for each kind that ships ([`super::registry`]), and explain their keys line by line. A user's
//! file has the same form.

use super::uri::Location;
use touchline_core::error::{Error, Result};
use touchline_core::item::Tracks;

/// Transports an RTSP URI may be played over, `+`-joined in [`Keys::rtsp_transport`].
const RTSP_TRANSPORTS: [&str; 5] = ["udp", "udp-mcast", "tcp", "http", "tls"];

/// What the placeholders of a template are replaced by.
#[derive(Clone, Debug)]
pub struct Keys<'a> {
    pub location: &'a Location,
    /// Greatest height of pictures, lines.
    pub frame_height: u32,
    pub sync: bool,
    pub latency_ms: u32,
    pub rtsp_transport: &'a str,
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
            // Half of the connect timeout, so that there is time left for the TCP attempt.
            "udp_timeout_us" => (u64::from(self.timeout_s) * 500_000).to_string(),
            // 2 MiB: a 500 KB key frame at 25 Mbit/s arrives in one burst, and the kernel counts overhead, too.
            "udp_buffer_bytes" => (2 << 20).to_string(),
            "live" => test?.live.to_string(),
            "width" => test?.width.to_string(),
            "height" => test?.height.to_string(),
            "fps" => format!("{}/{}", test?.fps.0, test?.fps.1),
            "video_buffers" => or_endless(test?.video_buffers()),
            "audio_buffers" => or_endless(test?.seconds.map(|s| u64::from(s) * 100)),
            _ => return None,
        })
    }
}

/// Renders `template`: drops comments and lines of unwanted tracks, fills placeholders, joins to one line.
///
/// # Errors
/// [`Error::Usage`] naming the line for an unknown placeholder, for text that holds no pipeline, and for an
/// RTSP transport that does not exist.
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
        // Caps write lists as { RGB, NV12 }: only a lone word in braces is a placeholder.
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
        return Err(Error::Usage("the pipeline template is empty; begin with a copy of one in pipelines/".into()));
    }
    Ok(out.trim_end().to_owned())
}

/// Escapes a value for the right side of `property=` in a gst-launch description.
///
/// A backslash before everything but letters, digits and what numbers and fractions are made of. Quoting would not
/// do: inside quotes the grammar takes `\"` for a quote, also after an escaped backslash, so a value could end the
/// string early. Controls cannot be escaped and are dropped; URIs have them percent-encoded before.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uri::Kind;

    const BOTH: Tracks = Tracks { video: true, audio: true };

    fn keys(location: &Location) -> Keys<'_> {
        Keys { location, frame_height: 360, sync: false, latency_ms: 200, rtsp_transport: "udp+tcp", timeout_s: 10 }
    }

    #[test]
    fn every_builtin_renders_for_its_kind_and_documents_each_key() {
        for given in [
            "a.mp4",
            "http://h/a.mp4",
            "http://h/a.m3u8",
            "rtsp://h/a",
            "srt://h:1",
            "rtmp://h/a/b",
            "udp://h:1",
            "testsrc://?seconds=2",
        ] {
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
        let said = |template: &str| render(template, &keys(&location), BOTH).unwrap_err().to_string();
        assert!(said("# c\nfakesrc name={nmae}").contains("line 2"));
        assert!(said("# only a comment\n").contains("empty"));
        assert!(said("videotestsrc num-buffers={video_buffers}").contains("rtsp source"));
        let mut keys = keys(&location);
        keys.rtsp_transport = "carrier-pigeon";
        assert!(render("fakesrc", &keys, BOTH).unwrap_err().to_string().contains("carrier-pigeon"));
    }
}
