//! Configuration files, and the addresses of streams in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use touchline_serve::config;
use touchline_serve::config::{ConfigFile, SourcesFile};
use touchline_media::guard::SourcePolicy;
use touchline_media::uri::{Location, Pacing};
use touchline_core::redact;

fuzz_target!(|text: &str| {
    // What is no configuration may still be an address of a stream.
    if let Ok(location) = Location::parse(text) {
        let _ = (location.pace(Pacing::Auto), location.sync(Pacing::Realtime), location.behind_ns(200));
    }
    let shown = redact::text(&redact::uri(text));
    assert!(!shown.contains('\n'));
    let Ok(file) = ConfigFile::parse(text) else { return };
    let _ = file.vote.settings();
    // Folders would be looked for on this machine.
    let _ = SourcePolicy::new(&SourcesFile { folders: Vec::new(), ..file.sources });
    let _ = file.listen.as_deref().map(config::listen_address);
    if let Ok(streams) = config::streams(file.stream) {
        for stream in streams {
            assert!((1..=64).contains(&stream.id.len()), "{:?}", stream.id);
            let _ = Location::parse(&stream.uri);
        }
    }
});
