//! The small grammar inside playlist tags: attribute lists, variables, decimal seconds, byte ranges (RFC 8216bis, 4.2 and 4.3).

use std::collections::HashMap;

use touchline_core::time::NANOS_PER_SECOND;

/// The longest valid duration, seconds.
const DURATION_MAX_S: f64 = 3_600.0;

/// The most attributes of one tag.
const ATTRIBUTES_MAX: usize = 64;

/// The most variables of one playlist.
const VARIABLES_MAX: usize = 256;

/// The attribute list of one tag. Names are compared as written; quotes are removed.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    all: Vec<(String, String)>,
    /// A quote is not closed.
    pub is_cut: bool,
}

impl Attributes {
    /// Reads `NAME=value,NAME="quoted, value"`. Skips attributes without `=`.
    pub fn parse(text: &str) -> Self {
        let (mut all, mut is_cut) = (Vec::new(), false);
        let mut rest = text.trim();
        while !rest.is_empty() && all.len() < ATTRIBUTES_MAX {
            let Some((name, after)) = rest.split_once('=') else { break };
            // A name contains no comma: text before one is an attribute without a value.
            let name = name.rsplit(',').next().unwrap_or_default().trim();
            let after = after.trim_start();
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => {
                    is_cut |= !quoted.contains('"');
                    let (value, after) = quoted.split_once('"').unwrap_or((quoted, ""));
                    (value, after.split_once(',').map_or("", |(_, next)| next))
                }
                None => after.split_once(',').unwrap_or((after, "")),
            };
            all.push((name.to_owned(), value.trim().to_owned()));
            rest = next;
        }
        Self { all, is_cut }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn is_yes(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("yes"))
    }

    pub fn seconds_ns(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(seconds_ns)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(name, _)| name.as_str())
    }
}

/// Decimal seconds as ns; [`None`] unless they are a number from 0 to 3600.
pub(super) fn seconds_ns(text: &str) -> Option<u64> {
    let seconds = text.trim().parse::<f64>().ok()?;
    (0.0..=DURATION_MAX_S).contains(&seconds).then(|| (seconds * NANOS_PER_SECOND as f64).round() as u64)
}

/// A byte range of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ByteRange {
    pub offset: u64,
    pub length: u64,
}

impl ByteRange {
    /// Reads `length[@offset]`. Without an offset the range begins at `implied`.
    ///
    /// # Errors
    /// Why the range is invalid.
    pub fn parse(text: &str, implied: Option<u64>) -> Result<Self, String> {
        let wrong = || format!("the byte range \"{}\" cannot be read", text.trim());
        let (length, offset) = match text.trim().split_once('@') {
            Some((length, offset)) => (length, Some(offset.trim().parse::<u64>().map_err(|_| wrong())?)),
            None => (text.trim(), implied),
        };
        let length = length.trim().parse::<u64>().map_err(|_| wrong())?;
        let offset = offset.ok_or("the first byte range of a resource has no offset")?;
        match offset.checked_add(length) {
            Some(_) if length > 0 => Ok(Self { offset, length }),
            _ => Err(wrong()),
        }
    }

    /// The value of a `Range` header.
    pub fn header(&self) -> String {
        format!("bytes={}-{}", self.offset, self.offset + self.length - 1)
    }
}

/// The variables of `EXT-X-DEFINE`.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables(HashMap<String, String>);

impl Variables {
    /// Takes one `EXT-X-DEFINE`. `imported`: the variables of the multivariant playlist; `query`: that of the playlist's address.
    ///
    /// # Errors
    /// Why the definition is invalid.
    pub fn define(&mut self, tag: &Attributes, imported: &Variables, query: Option<&str>) -> Result<(), String> {
        let (name, value) = if let Some(name) = tag.get("NAME") {
            (name, tag.get("VALUE").ok_or("EXT-X-DEFINE has a NAME and no VALUE")?.to_owned())
        } else if let Some(name) = tag.get("IMPORT") {
            (name, imported.0.get(name).ok_or_else(|| format!("the variable {name} to import is not defined"))?.clone())
        } else if let Some(name) = tag.get("QUERYPARAM") {
            let pairs = query.unwrap_or_default();
            let value = url::form_urlencoded::parse(pairs.as_bytes()).find(|(key, _)| key == name);
            (name, value.ok_or_else(|| format!("the address has no parameter {name}"))?.1.into_owned())
        } else {
            return Err("EXT-X-DEFINE names no variable".into());
        };
        if self.0.len() < VARIABLES_MAX {
            self.0.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// Replaces each `{$name}` in `line`. Values are not expanded again.
    ///
    /// # Errors
    /// Names an undefined variable.
    pub fn fill(&self, line: &str) -> Result<String, String> {
        let (mut out, mut rest) = (String::with_capacity(line.len()), line);
        while let Some((before, after)) = rest.split_once("{$") {
            let Some((name, next)) = after.split_once('}') else { break };
            let value = self.0.get(name).ok_or_else(|| format!("the variable {name} is not defined"))?;
            out.push_str(before);
            out.push_str(value);
            rest = next;
        }
        out.push_str(rest);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_lists_are_read() {
        let list = Attributes::parse("BANDWIDTH=1280000, CODECS=\"avc1.4d,mp4a\",X,RESOLUTION=640x360,NAME=\"a=b\"");
        assert_eq!(list.get("BANDWIDTH"), Some("1280000"));
        assert_eq!(list.get("CODECS"), Some("avc1.4d,mp4a"));
        assert_eq!(list.get("RESOLUTION"), Some("640x360"));
        assert_eq!(list.get("NAME"), Some("a=b"));
        assert_eq!(Attributes::parse("URI=\"open").get("URI"), Some("open"));
        assert_eq!(Attributes::parse("nothing").get("nothing"), None);
    }

    #[test]
    fn ranges_and_seconds_are_bounded() {
        let range = |text, implied| ByteRange::parse(text, implied).ok().map(|r| (r.offset, r.length));
        assert_eq!(range("10@5", None), Some((5, 10)));
        assert_eq!(range("10", Some(7)), Some((7, 10)));
        for wrong in ["10", "-1@-1", "0@0", "9223372036854775807@18446744073709551615", "x@1"] {
            assert_eq!(range(wrong, None), None, "{wrong}");
        }
        assert_eq!(ByteRange { offset: 5, length: 10 }.header(), "bytes=5-14");
        assert_eq!(seconds_ns(" 6.006"), Some(6_006_000_000));
        for wrong in ["nan", "-1", "inf", "1e9", ""] {
            assert_eq!(seconds_ns(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn variables_are_substituted_once() {
        let (mut outer, mut inner) = (Variables::default(), Variables::default());
        outer.define(&Attributes::parse("NAME=\"p\",VALUE=\"dir{$p}\""), &Variables::default(), None).unwrap();
        inner.define(&Attributes::parse("IMPORT=\"p\""), &outer, None).unwrap();
        inner.define(&Attributes::parse("QUERYPARAM=\"t\""), &outer, Some("a=1&t=x%2Fy")).unwrap();
        assert_eq!(inner.fill("{$p}/{$t}/s.ts").unwrap(), "dir{$p}/x/y/s.ts");
        assert!(inner.fill("{$none}").is_err());
        assert_eq!(inner.fill("{$open").unwrap(), "{$open");
        for wrong in ["", "NAME=\"a\"", "IMPORT=\"none\"", "QUERYPARAM=\"none\""] {
            assert!(inner.define(&Attributes::parse(wrong), &outer, Some("a=1")).is_err(), "{wrong}");
        }
    }
}
