//! Decode tiers with the whole program: the records of a recording.

use crate::common::Fixtures;
use crate::common::program::{self, touchline};
use serde_json::Value;

/// Eight seconds with B-pictures and a key picture every two seconds.
const CLIP: &str = "-f lavfi -i testsrc2=size=320x180:rate=25:duration=8 -c:v libx264 -preset veryfast -bf 3 -b_strategy 0 -g 50 \
                    -sc_threshold 0 -pix_fmt yuv420p";

#[test]
fn recordings_are_scored_by_tier() {
    let fixtures = Fixtures::new();
    let clip = fixtures.make("clip.mp4", CLIP);
    let score = |tier: &str| -> Vec<Value> {
        let to = fixtures.path().join(format!("{tier}.jsonl"));
        let run = touchline()
            .args(["score", "--signal-off", "freeze", "--tier", tier, "--jsonl"])
            .arg(&to)
            .arg(&clip)
            .output();
        let output = run.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(to).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let of = |records: &[Value], kind: &str| records.iter().filter(|record| record["type"] == kind).count();
    let full = score("full");
    assert_eq!(of(&full, "second"), 8);
    assert_eq!(full, score("lean"), "the same samples, the same records");
    assert_eq!(full, score("auto"));
    let sparse = score("sparse");
    assert_eq!(of(&sparse, "second"), 8);
    for (full, sparse) in full.iter().zip(&sparse).filter(|(full, _)| full["type"] == "second") {
        assert_eq!(full["modalities"]["rgb"], sparse["modalities"]["rgb"]);
        assert_eq!(full["probabilities"], sparse["probabilities"], "the pictures decide in this pack");
        assert_eq!((&sparse["tier"], &sparse["modalities"]["flow"]["absent"]), (&"sparse".into(), &"no-track".into()));
    }
    let key = score("key");
    assert_eq!((of(&key, "second"), of(&key, "gap")), (4, 4));
    assert!(key.iter().filter(|record| record["type"] == "gap").all(|gap| gap["reason"] == "not-decoded"), "{key:?}");
    assert!(key.iter().filter(|record| record["type"] == "second").all(|second| second["tier"] == "key"), "{key:?}");
    let refused = program::finish(touchline().args(["score", "--tier", "half"]).arg(&clip));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && message.contains("sparse"), "{message}");
}
