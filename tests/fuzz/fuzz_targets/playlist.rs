//! The HLS client: a playlist as it came and as a later one of the same channel, followed; the same text as a segment.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str)| touchline_media::hls::fuzz(texts.0, texts.1));
