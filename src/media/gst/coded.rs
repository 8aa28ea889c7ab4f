//! Classifies coded pictures for the decode filter: whether others refer to a picture, and whether it is a field.
//!
//! Only pictures to which no other picture refers can be left out alone: `nal_ref_idc` 0 in H.264 (ITU-T H.264, 7.4.1), sub-layer
//! non-reference pictures of the highest sub-layer in HEVC (ITU-T H.265, 7.4.2.2), and B-pictures in MPEG-2.
//!
//! Interlaced H.264 codes frames (also with fields in its macroblocks, MBAFF), or each field as a picture of its own (PAFF), or
//! both in turn; the slice header distinguishes them (7.3.3). The fields of a frame follow each other. In interlaced HEVC every
//! field is a picture of its own, and other pictures may come between the two of a frame, so a field counts as a reference.

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::VideoBufferExt as _;
use h264_reader::Context;
use h264_reader::avcc::AvcDecoderConfigurationRecord;
use h264_reader::nal::pps::PicParameterSet;
use h264_reader::nal::slice::{Field, FieldPic, SliceHeader};
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::nal::{Nal as _, RefNal};

/// How a coded picture refers to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CodedKind {
    /// Other pictures may refer to it.
    Reference,
    /// No other picture refers to it.
    Disposable,
}

/// A field that is a coded picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodedField {
    pub is_bottom: bool,
    /// The same for both fields of a frame.
    pub frame_num: u16,
}

/// A coded picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodedPicture {
    pub kind: CodedKind,
    /// H.264: it is one field of a frame.
    pub field: Option<CodedField>,
    /// HEVC: it is a field, and the other one of its frame is not necessarily the next picture.
    pub is_loose_field: bool,
}

impl CodedPicture {
    /// A whole frame.
    pub const fn frame(kind: CodedKind) -> Self {
        Self { kind, field: None, is_loose_field: false }
    }
}

/// The coding of a stream, as far as it matters for references.
#[derive(Debug)]
enum Coding {
    /// `length_bytes`: the size of the length before each NAL unit; [`None`] with start codes. `sets`: the parameter sets, if pictures
    /// can be fields.
    H264 {
        length_bytes: Option<usize>,
        sets: Option<Box<Context>>,
    },
    H265 {
        length_bytes: Option<usize>,
    },
    Mpeg2,
    /// All pictures count as references.
    Other,
}

impl Coding {
    fn of(caps: &gst::CapsRef) -> Self {
        let Some(format) = caps.structure(0) else { return Coding::Other };
        let text = |key| format.get::<&str>(key).ok();
        let is_whole = text("alignment") == Some("au");
        let header = format.get::<gst::Buffer>("codec_data").ok();
        let header = header.as_ref().and_then(|header| header.map_readable().ok());
        let length_bytes = |at: usize| -> Option<Option<usize>> {
            match text("stream-format")? {
                "byte-stream" => Some(None),
                _ => Some(Some(usize::from(header.as_ref()?.get(at)? & 3) + 1)),
            }
        };
        // The place of the length's size: ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1.
        match format.name().as_str() {
            "video/x-h264" if is_whole => {
                let sets = (text("coded-picture-structure") == Some("field")).then(|| {
                    let record =
                        header.as_ref().and_then(|header| AvcDecoderConfigurationRecord::try_from(&header[..]).ok());
                    Box::new(record.and_then(|record| record.create_context().ok()).unwrap_or_default())
                });
                length_bytes(4).map_or(Coding::Other, |length_bytes| Coding::H264 { length_bytes, sets })
            }
            "video/x-h265" if is_whole => {
                length_bytes(21).map_or(Coding::Other, |length_bytes| Coding::H265 { length_bytes })
            }
            "video/mpeg" if format.get::<i32>("mpegversion") == Ok(2) && format.get::<bool>("parsed") == Ok(true) => {
                Coding::Mpeg2
            }
            _ => Coding::Other,
        }
    }
}

/// The units of an access unit: NAL units, or the parts after start codes of MPEG-2. After a start code, the unit is only known to end
/// before the next one; see [`to_start_code`].
fn units(data: &[u8], length_bytes: Option<usize>) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || match length_bytes {
        Some(bytes) => {
            let (length, after) = rest.split_at_checked(bytes)?;
            let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let unit = after.get(..length)?;
            rest = &after[length..];
            Some(unit)
        }
        None => {
            let at = start_code(rest)?;
            rest = &rest[at + 3..];
            Some(rest)
        }
    })
}

fn start_code(data: &[u8]) -> Option<usize> {
    data.windows(3).position(|code| code == [0, 0, 1])
}

/// `unit` up to the next start code.
fn to_start_code(unit: &[u8]) -> &[u8] {
    let end = start_code(unit).unwrap_or(unit.len());
    let zeros = unit[..end].iter().rev().take_while(|byte| **byte == 0).count();
    &unit[..end - zeros]
}

/// The longest header of a slice, bytes: with weights for all references it has about 300.
const HEADER_MAX: usize = 512;

/// The header of the first slice in `data`, an access unit of H.264. Keeps the parameter sets before it.
fn slice_header(sets: &mut Context, data: &[u8], length_bytes: Option<usize>) -> Option<SliceHeader> {
    for unit in units(data, length_bytes) {
        match unit.first()? & 0x1f {
            1..=5 => {
                // The reader looks ahead, and a start code is an error to it.
                let slice = RefNal::new(to_start_code(&unit[..unit.len().min(HEADER_MAX)]), &[], true);
                let header = slice.header().ok()?;
                return Some(SliceHeader::from_bits(sets, &mut slice.rbsp_bits(), header, None).ok()?.0);
            }
            7 => {
                if let Ok(set) = SeqParameterSet::from_bits(RefNal::new(to_start_code(unit), &[], true).rbsp_bits()) {
                    sets.put_seq_param_set(set);
                }
            }
            8 => {
                if let Ok(set) =
                    PicParameterSet::from_bits(sets, RefNal::new(to_start_code(unit), &[], true).rbsp_bits())
                {
                    sets.put_pic_param_set(set);
                }
            }
            _ => {}
        }
    }
    None
}

/// Reads coded pictures of one stream.
#[derive(Debug)]
pub(super) struct CodedReader {
    coding: Coding,
    /// Highest temporal sub-layer seen (HEVC).
    highest_layer: u8,
}

impl CodedReader {
    pub fn new() -> Self {
        Self { coding: Coding::Other, highest_layer: 0 }
    }

    /// Takes the format of the pictures.
    pub fn set_format(&mut self, caps: &gst::CapsRef) {
        *self = Self { coding: Coding::of(caps), highest_layer: 0 };
        tracing::debug!(coding = ?self.coding, "coded pictures");
    }

    /// Whether the format tells which pictures begin a group.
    pub const fn knows_references(&self) -> bool {
        !matches!(self.coding, Coding::Other)
    }

    /// Reads the headers of a picture, of which only those of interest are looked at: a key picture counts as a reference.
    pub fn read(&mut self, buffer: &gst::BufferRef, is_key: bool) -> CodedPicture {
        let is_loose_field = matches!(self.coding, Coding::H265 { .. })
            && buffer.video_flags().contains(gst_video::VideoBufferFlags::ONEFIELD);
        let needs_data = !is_key || matches!(self.coding, Coding::H264 { sets: Some(_), .. });
        match buffer.map_readable() {
            Ok(data) if needs_data && !is_loose_field => self.picture(&data, is_key),
            _ => CodedPicture { is_loose_field, ..CodedPicture::frame(CodedKind::Reference) },
        }
    }

    fn picture(&mut self, data: &[u8], is_key: bool) -> CodedPicture {
        let (mut field, mut is_known) = (None, true);
        if let Coding::H264 { length_bytes, sets: Some(sets) } = &mut self.coding {
            let header = slice_header(sets, data, *length_bytes);
            // Whether a picture is a field is not known without its header, so it counts as a reference.
            is_known = header.is_some();
            field = header.and_then(|header| match header.field_pic {
                FieldPic::Frame => None,
                FieldPic::Field(field) => {
                    Some(CodedField { is_bottom: field == Field::Bottom, frame_num: header.frame_num })
                }
            });
        }
        let kind = if is_known && !is_key { self.kind(data) } else { CodedKind::Reference };
        CodedPicture { kind, field, is_loose_field: false }
    }

    fn kind(&mut self, data: &[u8]) -> CodedKind {
        let is_disposable = match self.coding {
            // The header of the first slice: all slices of a picture agree.
            Coding::H264 { length_bytes, .. } => units(data, length_bytes)
                .filter_map(|unit| unit.first())
                .find(|header| matches!(*header & 0x1f, 1..=5))
                .is_some_and(|header| header & 0x60 == 0),
            Coding::H265 { length_bytes } => {
                let slice = units(data, length_bytes)
                    .filter_map(|unit| Some(((unit.first()? >> 1) & 0x3f, (unit.get(1)? & 7).saturating_sub(1))))
                    .find(|(kind, _)| *kind < 32);
                slice.is_some_and(|(kind, layer)| {
                    self.highest_layer = self.highest_layer.max(layer);
                    kind < 16 && kind % 2 == 0 && layer == self.highest_layer
                })
            }
            // The picture header: ISO/IEC 13818-2, 6.2.3; picture_coding_type 3 is B.
            Coding::Mpeg2 => units(data, None)
                .find(|unit| unit.first() == Some(&0))
                .is_some_and(|header| header.get(2).is_some_and(|byte| (byte >> 3) & 7 == 3)),
            Coding::Other => false,
        };
        if is_disposable { CodedKind::Disposable } else { CodedKind::Reference }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(coding: Coding) -> CodedReader {
        CodedReader { coding, highest_layer: 0 }
    }

    #[test]
    fn the_kind_of_a_picture_is_read_from_its_headers() {
        use CodedKind::{Disposable, Reference};
        let start = |data: &[u8]| reader(Coding::H264 { length_bytes: None, sets: None }).kind(data);
        let length = |data: &[u8]| reader(Coding::H264 { length_bytes: Some(4), sets: None }).kind(data);
        // A delimiter and a slice: not a reference, and a reference.
        assert_eq!(start(&[0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x01, 0x9e]), Disposable);
        assert_eq!(start(&[0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x41, 0x9e]), Reference);
        assert_eq!(length(&[0, 0, 0, 2, 9, 0xf0, 0, 0, 0, 2, 0x01, 0x9e]), Disposable);
        assert_eq!(length(&[0, 0, 0, 2, 9, 0xf0, 0, 0, 0, 2, 0x61, 0x9e]), Reference);
        // Truncated, or without a slice. A stream with fields is read further.
        for data in [
            &[][..],
            &[0, 0, 1],
            &[0, 0, 0, 9, 1],
            &[0, 0, 0, 2, 9, 0xf0],
            &[0xff; 8],
            &[0, 0, 1, 0x67],
            &[0, 0, 1, 0x68, 0],
        ] {
            assert_eq!((start(data), length(data)), (Reference, Reference), "{data:?}");
            for length_bytes in [None, Some(4)] {
                let mut fields = reader(Coding::H264 { length_bytes, sets: Some(Box::default()) });
                assert_eq!(fields.picture(data, false), CodedPicture::frame(Reference), "{data:?}");
            }
        }
        // A slice whose parameter sets are missing.
        let mut fields = reader(Coding::H264 { length_bytes: None, sets: Some(Box::default()) });
        assert_eq!(fields.picture(&[0, 0, 1, 0x01, 0x9e, 0x80], false), CodedPicture::frame(Reference));
        let h265 = |data: &[u8]| reader(Coding::H265 { length_bytes: None }).kind(data);
        assert_eq!(h265(&[0, 0, 1, 0x00, 0x01]), Disposable, "TRAIL_N");
        assert_eq!(h265(&[0, 0, 1, 0x02, 0x01]), Reference, "TRAIL_R");
        assert_eq!(h265(&[0, 0, 1, 0x26, 0x01]), Reference, "IDR_W_RADL");
        let mut layers = reader(Coding::H265 { length_bytes: None });
        assert_eq!(layers.kind(&[0, 0, 1, 0x00, 0x02]), Disposable);
        assert_eq!(layers.kind(&[0, 0, 1, 0x00, 0x01]), Reference, "pictures of the higher sub-layer may refer to it");
        assert_eq!(reader(Coding::Mpeg2).kind(&[0, 0, 1, 0, 0x00, 0x1f, 0xff]), Disposable, "B");
        assert_eq!(reader(Coding::Mpeg2).kind(&[0, 0, 1, 0, 0x00, 0x17, 0xff]), Reference, "P");
        assert_eq!(reader(Coding::Other).kind(&[0, 0, 1, 0x01]), Reference);
    }

    /// A sequence with fields, and pictures without references in it (frame number 5): of a field, bottom or top, or of a frame.
    const SEQUENCE: &[u8] = &[0x67, 0x4d, 0x00, 0x1e, 0xf4, 0x52, 0x40];
    const PICTURES: &[u8] = &[0x68, 0xce, 0x38, 0x80];
    const BOTTOM: &[u8] = &[0x01, 0x88, 0xae, 0x58, 0xff, 0x80];
    const TOP: &[u8] = &[0x01, 0x88, 0xac, 0x58, 0xff, 0x80];
    const FRAME: &[u8] = &[0x01, 0x88, 0xa8, 0xb0, 0xff, 0x80];

    #[test]
    fn fields_are_told_from_frames() {
        let join = |units: &[&[u8]], length_bytes: Option<usize>| {
            let mut data = Vec::new();
            for unit in units {
                match length_bytes {
                    Some(_) => data.extend((unit.len() as u32).to_be_bytes()),
                    None => data.extend([0, 0, 0, 1]),
                }
                data.extend_from_slice(unit);
            }
            data
        };
        for length_bytes in [None, Some(4)] {
            let mut reader = reader(Coding::H264 { length_bytes, sets: Some(Box::default()) });
            let field = |is_bottom| Some(CodedField { is_bottom, frame_num: 5 });
            let disposable = CodedPicture::frame(CodedKind::Disposable);
            // The parameter sets come with the first picture and hold for the others.
            let first = reader.picture(&join(&[SEQUENCE, PICTURES, TOP], length_bytes), false);
            assert_eq!(first, CodedPicture { field: field(false), ..disposable });
            let second = reader.picture(&join(&[&[9, 0xf0], BOTTOM, BOTTOM], length_bytes), false);
            assert_eq!(second, CodedPicture { field: field(true), ..disposable });
            assert_eq!(reader.picture(&join(&[FRAME], length_bytes), false), disposable);
            // A key picture is a reference, and may be a field.
            let key = reader.picture(&join(&[TOP], length_bytes), true);
            assert_eq!(key, CodedPicture { field: field(false), ..CodedPicture::frame(CodedKind::Reference) });
        }
    }

    #[test]
    fn the_coding_is_read_from_the_format() {
        super::super::init().unwrap();
        let of = |caps: &str| format!("{:?}", Coding::of(&caps.parse::<gst::Caps>().unwrap()));
        let h264 = "video/x-h264, alignment=(string)au, stream-format=(string)";
        assert_eq!(of(&format!("{h264}byte-stream")), "H264 { length_bytes: None, sets: None }");
        let avc = of(&format!("{h264}avc, codec_data=(buffer)0164001fffe1"));
        assert_eq!(avc, "H264 { length_bytes: Some(4), sets: None }");
        assert_eq!(of(&format!("{h264}avc")), "Other");
        let fields = of(&format!("{h264}byte-stream, coded-picture-structure=(string)field"));
        assert!(fields.contains("sets: Some"), "{fields}");
        assert_eq!(of("video/x-h264, alignment=(string)nal, stream-format=(string)byte-stream"), "Other");
        assert_eq!(of("video/mpeg, mpegversion=(int)2, parsed=(boolean)true"), "Mpeg2");
        assert_eq!(of("image/jpeg"), "Other");
    }
}
