//! Names and numbers of tensors.

use super::*;

/// torchvision's state dicts have 314 and 320 entries, of which 52 and 53 are batch counters; those of
/// `efficientnet_lite_pytorch` have 296 and 386, of which 49 and 64 are.
#[test]
fn networks_have_the_tensors_of_their_sources() {
    for (architecture, count, classifier) in [
        (Architecture::MobileNetV2, 314 - 52, 1280),
        (Architecture::ResNet50, 320 - 53, 2048),
        (Architecture::EfficientNetLite0, 296 - 49, 1280),
        (Architecture::EfficientNetLite2, 386 - 64, 1280),
    ] {
        let tensors = architecture.tensors(7);
        assert_eq!(tensors.len(), count, "{architecture}");
        let name = format!("{}.weight", architecture.classifier());
        assert!(tensors.contains(&(name, vec![7, classifier])), "{architecture}");
    }
}
