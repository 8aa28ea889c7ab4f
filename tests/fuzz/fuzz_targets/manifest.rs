//! Manifests of packs. Weights are not looked at: they are compared with a hash before they are read.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use touchline_compute::models::pack::{Manifest, Pack, parse_toml};

fuzz_target!(|text: &str| {
    let Ok(manifest) = parse_toml::<Manifest>(text) else { return };
    // No such folder: what needs files fails, what needs none is checked.
    if let Ok(pack) = Pack::from_manifest(Path::new("/nowhere"), manifest) {
        let _ = (pack.wants(), pack.sample_rate(), pack.stamp());
        assert!(pack.can_replace(&pack).is_ok(), "a pack can replace itself");
    }
});
