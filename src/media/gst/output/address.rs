//! Where pictures with a label are sent.

use std::path::{Path, PathBuf};

use touchline_core::markup::is_harmless;
use touchline_core::redact;
use url::Url;

/// The container of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// MP4.
    Mp4,
    /// Matroska.
    Matroska,
    /// MPEG-TS.
    Ts,
}

/// A receiver of pictures with a label.
#[derive(Clone, PartialEq, Eq)]
pub enum OutputAddress {
    /// A file.
    File(PathBuf, Container),
    /// A folder with a playlist and segments.
    Hls(PathBuf),
    /// An RTMP server, with its secrets.
    Rtmp(String),
    /// An SRT peer, with its secrets.
    Srt(String),
    /// MPEG-TS in UDP datagrams: host and port.
    Udp(String, u16),
}

impl std::fmt::Debug for OutputAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl OutputAddress {
    /// Reads `rtmp://…`, `rtmps://…`, `srt://…`, `udp://HOST:PORT`, `hls:DIR`, or the path of an .mp4, .mkv or .ts file.
    ///
    /// # Errors
    /// One line: what is wrong and what to write. It is without secrets.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Masks the credentials in messages about the address.
        drop(redact::remember(text));
        if text.is_empty() {
            return Err("the output is empty; give a file, hls:DIR, or an rtmp://, srt:// or udp:// address".into());
        }
        if !text.chars().all(is_harmless) {
            return Err("the name of the output has control or invisible characters; rename it".into());
        }
        if let Some(dir) = text.strip_prefix("hls:") {
            let wrong = dir.is_empty() || dir.starts_with("//");
            return if wrong {
                Err("write the folder of the playlist as in hls:/srv/live".into())
            } else {
                Ok(Self::Hls(dir.into()))
            };
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Self::file(Path::new(text)) };
        let scheme = scheme.to_ascii_lowercase();
        let shown = redact::uri(text);
        // srt://:9000 listens on all interfaces; the URL standard requires a host.
        let parsed =
            if scheme == "srt" && rest.starts_with(':') { format!("srt://0.0.0.0{rest}") } else { text.to_owned() };
        let url = Url::parse(&parsed).map_err(|e| format!("{shown}: not a valid address: {e}; check host and port"))?;
        let host = url.host_str().filter(|host| !host.is_empty()).map(|host| host.trim_matches(['[', ']']).to_owned());
        let host = host.ok_or_else(|| format!("{shown}: the host is missing; write {scheme}://HOST…"))?;
        match (scheme.as_str(), url.port()) {
            ("rtmp" | "rtmps", _) => {
                // GStreamer needs the name of an application and of a stream.
                let names = url.path_segments().map_or(0, |parts| parts.filter(|part| !part.is_empty()).count());
                if names < 2 {
                    return Err(format!("{shown}: the path is too short; write {scheme}://HOST/APPLICATION/KEY"));
                }
                Ok(Self::Rtmp(text.to_owned()))
            }
            ("srt", Some(_)) => Ok(Self::Srt(text.to_owned())),
            ("udp", Some(port)) if matches!(url.path(), "" | "/") && url.query().is_none() => Ok(Self::Udp(host, port)),
            ("srt" | "udp", _) => Err(format!("{shown}: write it as in {scheme}://HOST:PORT")),
            _ => Err(format!(
                "{shown}: unknown scheme \"{scheme}\"; known are rtmp, rtmps, srt, udp, hls:DIR, or a path"
            )),
        }
    }

    /// The file at a path, by its extension.
    ///
    /// # Errors
    /// As [`OutputAddress::parse`].
    pub fn file(path: &Path) -> Result<Self, String> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let container = match extension.as_deref() {
            Some("mp4" | "m4v" | "mov") => Container::Mp4,
            Some("mkv") => Container::Matroska,
            Some("ts" | "m2ts" | "mts") => Container::Ts,
            _ => {
                return Err(format!(
                    "{}: the extension is not .mp4, .mkv or .ts; give a name with one",
                    path.display()
                ));
            }
        };
        Ok(Self::File(path.into(), container))
    }

    /// Whether it has a place for labels beside the pictures.
    pub const fn holds_metadata(&self) -> bool {
        match self {
            Self::File(_, container) => matches!(container, Container::Ts),
            Self::Hls(_) | Self::Srt(_) | Self::Udp(..) => true,
            Self::Rtmp(_) => false,
        }
    }

    /// The kind, for metrics and the API.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::File(..) => "file",
            Self::Hls(_) => "hls",
            Self::Rtmp(_) => "rtmp",
            Self::Srt(_) => "srt",
            Self::Udp(..) => "udp",
        }
    }

    /// The address without its secrets.
    pub fn shown(&self) -> String {
        match self {
            Self::File(path, _) => path.display().to_string(),
            Self::Hls(dir) => format!("hls:{}", dir.display()),
            Self::Rtmp(uri) | Self::Srt(uri) => redact::uri(uri),
            Self::Udp(host, port) if host.contains(':') => format!("udp://[{host}]:{port}"),
            Self::Udp(host, port) => format!("udp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_secrets() {
        let shown = |text: &str| OutputAddress::parse(text).map(|address| (address.kind(), address.shown()));
        assert_eq!(shown("a b/c.mp4"), Ok(("file", "a b/c.mp4".into())));
        assert_eq!(shown("hls:live/1"), Ok(("hls", "hls:live/1".into())));
        assert_eq!(shown("rtmp://u:p@host/app/s3cret-key"), Ok(("rtmp", "rtmp://***@host/app/***".into())));
        assert_eq!(shown("srt://host:9000?passphrase=0123456789"), Ok(("srt", "srt://host:9000?***".into())));
        assert_eq!(shown("srt://:9000?mode=listener"), Ok(("srt", "srt://:9000?***".into())));
        assert_eq!(shown("udp://239.0.0.1:5000"), Ok(("udp", "udp://239.0.0.1:5000".into())));
        assert_eq!(shown("udp://[::1]:5000"), Ok(("udp", "udp://[::1]:5000".into())));
        for (text, part) in [
            ("", "is empty"),
            ("a\u{202e}4pm.exe", "control or invisible characters"),
            ("a\n.mp4", "control or invisible characters"),
            ("a.avi", ".mp4, .mkv or .ts"),
            ("hls:", "hls:/srv/live"),
            ("hls://host/a", "hls:/srv/live"),
            ("rtmp://host/app", "rtmp://HOST/APPLICATION/KEY"),
            ("udp://host", "udp://HOST:PORT"),
            ("srt://host", "srt://HOST:PORT"),
            ("https://host/x", "unknown scheme"),
            ("rtmp://", "the host is missing"),
        ] {
            let error = shown(text).unwrap_err();
            assert!(error.contains(part) && error.lines().count() == 1, "{text:?}: {error}");
        }
        let error = shown("rtmp://user:hunter2@/x").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(!format!("{:?}", OutputAddress::parse("rtmp://host/app/s3cret-key")).contains("s3cret"));
    }
}
