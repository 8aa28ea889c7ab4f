//! The form of ring files: a log of formats and units.
//!
//! GStreamer has containers for this, and none fits: Matroska rounds times to milliseconds and has no decoding times, MPEG-TS changes
//! the units and holds few codings, and both need a muxer that is restarted every few seconds. A log keeps every unit as it is.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;
use touchline_core::item::Track;

use super::super::unit::Unit;

/// The largest unit, bytes: a picture of the largest size at the lowest compression has less.
const UNIT_MAX: u64 = 256 << 20;

/// The longest format or tag list, bytes: parameter sets are in it.
const TEXT_MAX: u64 = 1 << 20;

const FORMAT: u8 = b'F';
const TAGS: u8 = b'T';
const UNIT: u8 = b'U';

/// Head of every entry: kind, track, is_key, length of what follows.
const HEAD_BYTES: usize = 3 + 8;

/// Times of a unit: PTS, DTS, duration, arrival.
const TIMES_BYTES: usize = 4 * 8;

/// Stands for a decoding time that is not known.
const NO_DTS: i64 = i64::MIN;

pub(super) struct RingWriter {
    to: BufWriter<File>,
}

impl RingWriter {
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { to: BufWriter::with_capacity(256 << 10, File::create_new(path)?) })
    }

    fn head(&mut self, kind: u8, track: Track, is_key: bool, length: usize) -> io::Result<()> {
        let mut head = [0; HEAD_BYTES];
        head[..3].copy_from_slice(&[kind, track.index() as u8, u8::from(is_key)]);
        head[3..].copy_from_slice(&(length as u64).to_le_bytes());
        self.to.write_all(&head)
    }

    pub fn format(&mut self, track: Track, caps: &gst::CapsRef) -> io::Result<()> {
        let text = caps.to_string();
        self.head(FORMAT, track, false, text.len())?;
        self.to.write_all(text.as_bytes())
    }

    pub fn tags(&mut self, track: Track, tags: &gst::TagList) -> io::Result<()> {
        let text = tags.to_value().serialize().map_err(|e| io::Error::other(e.to_string()))?;
        self.head(TAGS, track, false, text.len())?;
        self.to.write_all(text.as_bytes())
    }

    pub fn unit(&mut self, unit: &Unit, arrived_ns: u64) -> io::Result<()> {
        let data = unit.buffer.map_readable().map_err(|e| io::Error::other(e.to_string()))?;
        self.head(UNIT, unit.track, unit.is_key, TIMES_BYTES + data.len())?;
        for time in [unit.pts_ns, unit.dts_ns.unwrap_or(NO_DTS)] {
            self.to.write_all(&time.to_le_bytes())?;
        }
        for time in [unit.duration_ns, arrived_ns] {
            self.to.write_all(&time.to_le_bytes())?;
        }
        self.to.write_all(&data)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A unit that was read. Its buffer is empty if the data were skipped.
pub(super) struct RecordedUnit {
    pub unit: Unit,
    pub arrived_ns: u64,
}

pub(super) struct RingReader {
    from: BufReader<File>,
    formats: [Option<gst::Caps>; 2],
    tags: [Option<gst::TagList>; 2],
    with_data: bool,
    /// Bytes that the file still has.
    left: u64,
    /// End of the last entry that was read, bytes.
    whole: u64,
}

impl RingReader {
    pub fn new(mut file: File, with_data: bool) -> io::Result<Self> {
        file.rewind()?;
        let left = file.metadata()?.len();
        let from = BufReader::with_capacity(64 << 10, file);
        Ok(Self { from, formats: [None, None], tags: [None, None], with_data, left, whole: 0 })
    }

    /// Continues behind the last whole entry: the file may have grown.
    ///
    /// # Errors
    /// Those of the file.
    pub fn resume(&mut self) -> io::Result<()> {
        self.left = self.from.get_ref().metadata()?.len().saturating_sub(self.whole);
        self.from.seek(io::SeekFrom::Start(self.whole)).map(|_| ())
    }

    /// The next unit. [`None`] at the end of the file, and where it is not readable: its writer may be killed within a unit.
    pub fn next(&mut self) -> Option<RecordedUnit> {
        loop {
            let mut head = [0; HEAD_BYTES];
            self.read(&mut head)?;
            let track = match head[1] {
                0 => Track::Video,
                1 => Track::Audio,
                _ => return None,
            };
            let length = u64::from_le_bytes(head[3..].try_into().ok()?);
            if length > self.left {
                return None;
            }
            match head[0] {
                FORMAT => {
                    self.formats[track.index()] = Some(self.text(length)?.parse().ok()?);
                    self.whole += HEAD_BYTES as u64 + length;
                }
                TAGS => {
                    let tags = gst::glib::Value::deserialize(&self.text(length)?, gst::TagList::static_type());
                    self.tags[track.index()] = tags.ok().and_then(|tags| tags.get().ok());
                    self.whole += HEAD_BYTES as u64 + length;
                }
                UNIT => {
                    let unit = self.unit(track, head[2] != 0, length)?;
                    self.whole += HEAD_BYTES as u64 + length;
                    return Some(unit);
                }
                _ => return None,
            }
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        self.left = self.left.checked_sub(bytes.len() as u64)?;
        self.from.read_exact(bytes).ok()
    }

    fn text(&mut self, length: u64) -> Option<String> {
        let mut bytes = vec![0; usize::try_from(length).ok().filter(|_| length <= TEXT_MAX)?];
        self.read(&mut bytes)?;
        String::from_utf8(bytes).ok()
    }

    fn unit(&mut self, track: Track, is_key: bool, length: u64) -> Option<RecordedUnit> {
        let mut times = [0; TIMES_BYTES];
        self.read(&mut times)?;
        let mut times = times.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok());
        let (pts_ns, dts_ns) = (i64::from_le_bytes(times.next()?), i64::from_le_bytes(times.next()?));
        let (duration_ns, arrived_ns) = (u64::from_le_bytes(times.next()?), u64::from_le_bytes(times.next()?));
        let length = length.checked_sub(TIMES_BYTES as u64).filter(|length| *length <= UNIT_MAX)?;
        let mut buffer = if self.with_data {
            let mut data = vec![0; usize::try_from(length).ok()?];
            self.read(&mut data)?;
            gst::Buffer::from_mut_slice(data)
        } else {
            self.from.seek_relative(i64::try_from(length).ok()?).ok()?;
            self.left = self.left.checked_sub(length)?;
            gst::Buffer::new()
        };
        if !is_key {
            buffer.get_mut()?.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        if duration_ns > 0 {
            buffer.get_mut()?.set_duration(gst::ClockTime::from_nseconds(duration_ns));
        }
        let unit = Unit {
            track,
            run: 0,
            place: 0,
            pts_ns,
            dts_ns: (dts_ns != NO_DTS).then_some(dts_ns),
            duration_ns,
            is_key,
            caps: self.formats[track.index()].clone()?,
            buffer,
            tags: self.tags[track.index()].clone(),
        };
        Some(RecordedUnit { unit, arrived_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(track: Track, pts_ns: i64, data: &[u8], format: &str) -> Unit {
        Unit {
            track,
            run: 0,
            place: 0,
            pts_ns,
            dts_ns: (pts_ns > 0).then_some(pts_ns - 5),
            duration_ns: 40,
            is_key: data.len() > 2,
            caps: format.parse().unwrap(),
            buffer: gst::Buffer::from_mut_slice(data.to_vec()),
            tags: None,
        }
    }

    #[test]
    fn units_are_read_back_up_to_where_the_file_was_cut_off() {
        crate::gst::init().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ring");
        let formats = ["video/x-h264, codec_data=(buffer)0164001f, width=(int)640", "audio/mpeg, mpegversion=(int)4"];
        let units = [
            unit(Track::Video, -10, &[1, 2, 3], formats[0]),
            unit(Track::Audio, 7, &[4], formats[1]),
            unit(Track::Video, 30, &[5, 6], formats[0]),
        ];
        let mut writer = RingWriter::create(&path).unwrap();
        writer.format(Track::Video, &units[0].caps).unwrap();
        writer.format(Track::Audio, &units[1].caps).unwrap();
        let mut tags = gst::TagList::new();
        tags.get_mut().unwrap().add::<gst::tags::ImageOrientation>(&"rotate-90", gst::TagMergeMode::Replace);
        writer.tags(Track::Video, &tags).unwrap();
        units.iter().enumerate().for_each(|(i, unit)| writer.unit(unit, 100 + i as u64).unwrap());
        writer.flush().unwrap();
        let read = |with_data| -> Vec<RecordedUnit> {
            let mut reader = RingReader::new(File::open(&path).unwrap(), with_data).unwrap();
            std::iter::from_fn(|| reader.next()).collect()
        };
        for (i, (found, unit)) in read(true).iter().zip(&units).enumerate() {
            let Unit { pts_ns, dts_ns, duration_ns, is_key, caps, buffer, .. } = &found.unit;
            assert_eq!((*pts_ns, *dts_ns, *duration_ns), (unit.pts_ns, unit.dts_ns, unit.duration_ns));
            assert_eq!((*is_key, caps, found.arrived_ns), (unit.is_key, &unit.caps, 100 + i as u64));
            assert_eq!(buffer.map_readable().unwrap().as_slice(), unit.buffer.map_readable().unwrap().as_slice());
        }
        assert_eq!(read(true)[0].unit.tags.as_ref().unwrap().to_string(), tags.to_string());
        assert_eq!((read(true).len(), read(false).len()), (3, 3));
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read(true).len() < 3 && read(false).len() == read(true).len(), "{length}");
            let mut reader = RingReader::new(File::open(&path).unwrap(), true).unwrap();
            let mut count = std::iter::from_fn(|| reader.next()).count();
            // The file grows while it is open.
            let mut rest = File::options().append(true).open(&path).unwrap();
            rest.write_all(&whole[length..]).unwrap();
            reader.resume().unwrap();
            count += std::iter::from_fn(|| reader.next()).count();
            assert_eq!(count, 3, "{length}");
            std::fs::write(&path, &whole[..length]).unwrap();
        }
        assert!(read(true).len() == 2, "only the last unit is lost");
    }
}
