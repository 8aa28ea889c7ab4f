//! HLS playlists: what is read of them, and that no address in them stays as it was for a guarded source.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str)| touchline::ingest::fuzz_playlists(texts.0, texts.1));
