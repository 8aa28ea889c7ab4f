//! Facts about tracks from the caps of their pads.

use gstreamer as gst;

use crate::facts::SharedFacts;
use touchline_core::item::Track;

/// Takes the codec from the caps of a decoder's input. The first of each kind of track counts.
pub(super) fn coded(facts: &SharedFacts, caps: &gst::CapsRef) {
    let Some(format) = caps.structure(0) else { return };
    let Some((track, codec)) = codec(format) else { return };
    facts.update(|facts| {
        let known = match track {
            Track::Video => &mut facts.video.get_or_insert_default().codec,
            Track::Audio => &mut facts.audio.get_or_insert_default().codec,
        };
        known.get_or_insert(codec);
    });
}

/// Takes the format from the caps of `track` where its branch begins to convert.
pub(super) fn decoded(facts: &SharedFacts, track: Track, caps: &gst::CapsRef) {
    let Some(format) = caps.structure(0) else { return };
    let number = |key| format.get::<i32>(key).ok().and_then(|n| u32::try_from(n).ok());
    facts.update(|facts| match track {
        Track::Video => {
            let video = facts.video.get_or_insert_default();
            (video.width, video.height) = (number("width"), number("height"));
            // 0/1 is a variable or unknown rate.
            let rate = format.get::<gst::Fraction>("framerate").ok().filter(|rate| rate.numer() > 0);
            video.frame_rate =
                rate.map(|rate| (f64::from(rate.numer()) * 1000.0 / f64::from(rate.denom())).round() / 1000.0);
            video.interlaced = format.get::<&str>("interlace-mode").ok().map(|mode| mode != "progressive");
        }
        Track::Audio => {
            let audio = facts.audio.get_or_insert_default();
            (audio.rate, audio.channels) = (number("rate"), number("channels"));
        }
    });
}

/// The kind of track and the name of its codec; [`None`] for media that are not coded.
fn codec(format: &gst::StructureRef) -> Option<(Track, String)> {
    let name = format.name().as_str();
    let (kind, rest) = name.split_once('/')?;
    let track = match kind {
        "video" | "image" => Track::Video,
        "audio" => Track::Audio,
        _ => return None,
    };
    let version = format.get::<i32>("mpegversion").unwrap_or(0);
    let known = match name {
        "video/x-raw" | "audio/x-raw" => return None,
        "video/x-h264" => "H.264",
        "video/x-h265" => "HEVC",
        "video/x-h266" => "VVC",
        "video/x-av1" => "AV1",
        "video/x-vp8" => "VP8",
        "video/x-vp9" => "VP9",
        "video/mpeg" if version == 4 => "MPEG-4 Part 2",
        "video/mpeg" if version == 1 => "MPEG-1",
        "video/mpeg" => "MPEG-2",
        "video/x-theora" => "Theora",
        "video/x-prores" => "ProRes",
        "image/jpeg" => "JPEG",
        "audio/mpeg" if version == 1 && format.get::<i32>("layer") == Ok(3) => "MP3",
        "audio/mpeg" if version == 1 => "MPEG audio",
        "audio/mpeg" => "AAC",
        "audio/x-ac3" => "AC-3",
        "audio/x-eac3" => "E-AC-3",
        "audio/x-opus" => "Opus",
        "audio/x-vorbis" => "Vorbis",
        "audio/x-flac" => "FLAC",
        "audio/x-alaw" | "audio/x-mulaw" => "G.711",
        "audio/G722" => "G.722",
        _ => rest.trim_start_matches("x-"),
    };
    Some((track, known.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{AudioFacts, VideoFacts};

    fn caps(text: &str) -> gst::Caps {
        super::super::init().unwrap();
        text.parse().unwrap()
    }

    #[test]
    fn codecs_have_their_usual_names() {
        let name = |text: &str| codec(caps(text).structure(0).unwrap()).map(|(track, name)| (track.index(), name));
        let video = |name: &str| Some((0, name.to_owned()));
        let audio = |name: &str| Some((1, name.to_owned()));
        assert_eq!(name("video/x-h264, width=(int)320"), video("H.264"));
        assert_eq!(name("video/mpeg, mpegversion=(int)2, systemstream=(boolean)false"), video("MPEG-2"));
        assert_eq!(name("video/x-dirac"), video("dirac"));
        assert_eq!(name("audio/mpeg, mpegversion=(int)4"), audio("AAC"));
        assert_eq!(name("audio/mpeg, mpegversion=(int)1, layer=(int)3"), audio("MP3"));
        assert_eq!(name("audio/mpeg, mpegversion=(int)1, layer=(int)2"), audio("MPEG audio"));
        assert_eq!((name("video/x-raw, width=(int)8"), name("application/x-rtp")), (None, None));
    }

    #[test]
    fn formats_are_read_from_caps_and_the_first_codec_counts() {
        let facts = SharedFacts::default();
        coded(&facts, &caps("audio/x-opus"));
        coded(&facts, &caps("audio/mpeg, mpegversion=(int)4"));
        decoded(&facts, Track::Audio, &caps("audio/x-raw, rate=(int)48000, channels=(int)2"));
        let format = "video/x-raw, width=(int)1440, height=(int)1080, framerate=(fraction)30000/1001, interlace-mode=(string)mixed";
        decoded(&facts, Track::Video, &caps(format));
        let found = facts.get();
        let video = VideoFacts {
            codec: None,
            width: Some(1440),
            height: Some(1080),
            frame_rate: Some(29.97),
            interlaced: Some(true),
        };
        assert_eq!(found.video, Some(video));
        let audio = AudioFacts { codec: Some("Opus".into()), rate: Some(48_000), channels: Some(2) };
        assert_eq!(found.audio, Some(audio));
        decoded(&facts, Track::Video, &caps("video/x-raw, width=(int)64, framerate=(fraction)0/1"));
        assert_eq!(facts.get().video.unwrap(), VideoFacts { width: Some(64), ..VideoFacts::default() });
        assert_eq!(facts.newer_than(&facts.get()), None);
        assert!(facts.newer_than(&found).is_some());
    }
}
