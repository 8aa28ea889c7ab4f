//! How much a label would teach: which seconds are suggested first.

use super::memory::HeldDecision;
use touchline_core::labels::{ClassId, Modality};

/// The weight of another opinion of one modality. It is weaker than that of a whole pack.
const VIEW: f32 = 0.6;

/// The weight of another opinion of the shadow.
const SHADOW: f32 = 0.8;

/// How doubtful a decision is, 0 to 1: from the margin between its two most probable classes, the modality that contradicts it most, and the
/// shadow. Each of them may raise the doubt, and none lowers it.
pub(super) fn doubt(decision: &HeldDecision, shadow: Option<ClassId>) -> f32 {
    let mut top = [0.0_f32; 2];
    for probability in &decision.probabilities {
        if *probability > top[0] {
            top = [*probability, top[0]];
        } else if *probability > top[1] {
            top[1] = *probability;
        }
    }
    let margin = (top[0] - top[1]).clamp(0.0, 1.0);
    let contradicts = |modality: &Modality| match decision.views.get(*modality) {
        Some((label, score)) if *label != decision.label => *score,
        _ => 0.0,
    };
    let view = Modality::ALL.iter().map(contradicts).fold(0.0, f32::max).clamp(0.0, 1.0);
    let other = if shadow.is_some_and(|label| label != decision.label) { SHADOW } else { 0.0 };
    1.0 - margin * (1.0 - VIEW * view) * (1.0 - other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::decision::PerModality;

    fn decided(probabilities: &[f32], flow: Option<(u16, f32)>) -> HeldDecision {
        let views = PerModality { flow: flow.map(|(label, score)| (ClassId(label), score)), ..PerModality::default() };
        HeldDecision { label: ClassId(0), probability: probabilities[0], probabilities: probabilities.to_vec(), views }
    }

    #[test]
    fn a_small_margin_another_view_and_the_shadow_raise_the_doubt() {
        let sure = decided(&[0.9, 0.1], None);
        let close = decided(&[0.5, 0.45, 0.05], None);
        assert!((doubt(&sure, None) - 0.2).abs() < 1e-6);
        assert!(doubt(&close, None) > 0.9);
        let agrees = decided(&[0.9, 0.1], Some((0, 0.9)));
        let differs = decided(&[0.9, 0.1], Some((1, 0.9)));
        assert_eq!(doubt(&agrees, None), doubt(&sure, None));
        assert!(doubt(&differs, None) > doubt(&sure, None));
        assert_eq!(doubt(&sure, Some(ClassId(0))), doubt(&sure, None));
        assert!(doubt(&sure, Some(ClassId(1))) > doubt(&differs, None));
        assert!(doubt(&decided(&[1.0], None), None) < 1e-6, "a pack of one class has no doubt");
    }
}
