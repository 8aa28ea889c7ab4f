//! Configuration files, and the addresses of streams in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use touchline_serve::config;
use touchline_serve::config::{ConfigFile, SettingSources, SourcesFile};
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
    let file = ConfigFile::parse(text, "touchline.toml");
    for problem in &file.problems {
        assert!(!problem.to_string().contains('\n'));
    }
    let Ok(settings) = config::resolve(SettingSources { file, ..SettingSources::default() }) else { return };
    // Folders would be looked for on this machine.
    let _ = SourcePolicy::new(&SourcesFile { folders: Vec::new(), ..settings.sources });
    for stream in settings.streams {
        assert!((1..=64).contains(&stream.settings.id.len()), "{:?}", stream.settings.id);
        let _ = Location::parse(&stream.settings.uri);
    }
});
