//! WAV files: RIFF/WAVE, and RF64 beyond 4 GiB (EBU Tech 3306), with sizes that are right at every flush.

use std::io::{self, Seek, SeekFrom, Write};

use serde::Deserialize;

/// How samples are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleFormat {
    /// 16-bit integers.
    S16,
    /// 32-bit floating point.
    F32,
}

impl SampleFormat {
    /// The names, in the order of the variants.
    pub const NAMES: [&str; 2] = ["s16", "f32"];

    const fn bytes(self) -> u16 {
        match self {
            SampleFormat::S16 => 2,
            SampleFormat::F32 => 4,
        }
    }

    /// The format tag: PCM or IEEE float.
    const fn tag(self) -> u16 {
        match self {
            SampleFormat::S16 => 1,
            SampleFormat::F32 => 3,
        }
    }
}

/// The size of `ds64`, bytes. A chunk `JUNK` of that size keeps its place until the file needs it.
const DS64_BYTES: u32 = 28;

/// Where the contents of `ds64` begin.
const DS64_AT: u64 = 20;

/// The format tag that announces a channel mask and the real tag, required beyond two channels.
const EXTENSIBLE: u16 = 0xfffe;

/// The end of the identifier of a format tag in an extensible header.
const TAG_SUFFIX: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/// A WAV file that is being written.
pub struct WavWriter<W: Write + Seek> {
    to: W,
    format: SampleFormat,
    frame_bytes: u64,
    /// Where the samples begin.
    data_at: u64,
    data_bytes: u64,
    /// Where the number of frames stands in `fact`.
    fact_at: u64,
    buffer: Vec<u8>,
}

impl<W: Write + Seek> WavWriter<W> {
    /// Writes the header of an empty file.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn new(mut to: W, rate: u32, channels: u16, format: SampleFormat) -> io::Result<Self> {
        let is_extensible = channels > 2;
        let frame_bytes = u32::from(channels) * u32::from(format.bytes());
        let mut fmt = Vec::new();
        fmt.extend((if is_extensible { EXTENSIBLE } else { format.tag() }).to_le_bytes());
        fmt.extend(channels.to_le_bytes());
        fmt.extend(rate.to_le_bytes());
        fmt.extend(rate.saturating_mul(frame_bytes).to_le_bytes());
        fmt.extend((frame_bytes as u16).to_le_bytes());
        fmt.extend((8 * format.bytes()).to_le_bytes());
        if is_extensible {
            fmt.extend(22u16.to_le_bytes());
            fmt.extend((8 * format.bytes()).to_le_bytes());
            // No speaker positions.
            fmt.extend(0u32.to_le_bytes());
            fmt.extend(format.tag().to_le_bytes());
            fmt.extend(TAG_SUFFIX);
        } else if format == SampleFormat::F32 {
            fmt.extend(0u16.to_le_bytes());
        }
        let mut header = Vec::new();
        header.extend(b"RIFF\0\0\0\0WAVEJUNK");
        header.extend(DS64_BYTES.to_le_bytes());
        header.extend([0; DS64_BYTES as usize]);
        header.extend(b"fmt ");
        header.extend((fmt.len() as u32).to_le_bytes());
        header.extend(&fmt);
        header.extend(b"fact\x04\0\0\0");
        let fact_at = header.len() as u64;
        header.extend([0; 4]);
        header.extend(b"data\0\0\0\0");
        to.write_all(&header)?;
        let data_at = header.len() as u64;
        let frame_bytes = u64::from(frame_bytes);
        let mut writer = Self { to, format, frame_bytes, data_at, data_bytes: 0, fact_at, buffer: Vec::new() };
        writer.flush()?;
        Ok(writer)
    }

    /// Number of samples per channel so far.
    pub fn frames(&self) -> u64 {
        self.data_bytes / self.frame_bytes
    }

    /// Appends interleaved samples between -1 and 1; values beyond are clipped in integers.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&mut self, samples: &[f32]) -> io::Result<()> {
        self.buffer.clear();
        match self.format {
            SampleFormat::S16 => {
                let value = |sample: f32| (f64::from(sample) * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16;
                self.buffer.extend(samples.iter().flat_map(|sample| value(*sample).to_le_bytes()));
            }
            SampleFormat::F32 => self.buffer.extend(samples.iter().flat_map(|sample| sample.to_le_bytes())),
        }
        self.to.write_all(&self.buffer)?;
        self.data_bytes += self.buffer.len() as u64;
        Ok(())
    }

    /// Appends `frames` samples of silence per channel.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write_silence(&mut self, frames: u64) -> io::Result<()> {
        let channels = self.frame_bytes / u64::from(self.format.bytes());
        let silence = [0.0; 4096];
        let mut left = frames * channels;
        while left > 0 {
            let count = left.min(silence.len() as u64);
            self.write(&silence[..count as usize])?;
            left -= count;
        }
        Ok(())
    }

    /// Writes the sizes, so that the file is whole up to here.
    ///
    /// # Errors
    /// Those of the file.
    pub fn flush(&mut self) -> io::Result<()> {
        let riff_bytes = self.data_at - 8 + self.data_bytes;
        let (frames, end) = (self.frames(), self.data_at + self.data_bytes);
        let short = |size: u64| u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
        if riff_bytes > u64::from(u32::MAX) {
            self.put(0, b"RF64")?;
            self.put(DS64_AT - 8, b"ds64")?;
            self.put(DS64_AT, &riff_bytes.to_le_bytes())?;
            self.put(DS64_AT + 8, &self.data_bytes.to_le_bytes())?;
            self.put(DS64_AT + 16, &frames.to_le_bytes())?;
        }
        self.put(4, &short(riff_bytes))?;
        self.put(self.fact_at, &short(frames))?;
        let data_size = if riff_bytes > u64::from(u32::MAX) { u64::MAX } else { self.data_bytes };
        self.put(self.data_at - 4, &short(data_size))?;
        self.to.seek(SeekFrom::Start(end))?;
        self.to.flush()
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.to.seek(SeekFrom::Start(at))?;
        self.to.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn number(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn sizes_are_right_after_each_flush() {
        let mut to = Cursor::new(Vec::new());
        let mut writer = WavWriter::new(&mut to, 48_000, 2, SampleFormat::S16).unwrap();
        writer.write(&[0.0, 1.0, -1.0, 2.0, 0.5, -0.5]).unwrap();
        writer.write_silence(5000).unwrap();
        writer.flush().unwrap();
        writer.write(&[0.25, 0.25]).unwrap();
        writer.flush().unwrap();
        assert_eq!(writer.frames(), 5004);
        let bytes = to.into_inner();
        assert_eq!((&bytes[..4], number(&bytes, 4) as usize), (&b"RIFF"[..], bytes.len() - 8));
        let data = bytes.windows(4).position(|at| at == b"data").unwrap();
        assert_eq!(number(&bytes, data + 4), 5004 * 4);
        let sample = |n: usize| i16::from_le_bytes(bytes[data + 8 + 2 * n..][..2].try_into().unwrap());
        assert_eq!([0, 1, 2, 3, 4, 5].map(sample), [0, 32_767, -32_768, 32_767, 16_384, -16_384]);
        assert_eq!(sample(2 * 5003), 8192);
    }

    /// A file of which only the header is kept.
    struct Header(Cursor<Vec<u8>>);

    impl Write for Header {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Header {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            match to {
                SeekFrom::Start(at) if at > 1 << 20 => Ok(at),
                to => self.0.seek(to),
            }
        }
    }

    #[test]
    fn files_beyond_four_gibibytes_are_rf64() {
        let mut writer = WavWriter::new(Header(Cursor::new(Vec::new())), 96_000, 8, SampleFormat::F32).unwrap();
        let frames = (5u64 << 30) / 32;
        writer.data_bytes = frames * 32;
        writer.flush().unwrap();
        let bytes = writer.to.0.into_inner();
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((&bytes[..4], number(&bytes, 4), &bytes[12..16]), (&b"RF64"[..], u32::MAX, &b"ds64"[..]));
        assert_eq!((long(20), long(28), long(36)), (bytes.len() as u64 - 8 + frames * 32, frames * 32, frames));
        assert_eq!(number(&bytes, bytes.len() - 4), u32::MAX);
    }
}
