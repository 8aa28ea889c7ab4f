//! Comparison of two packs on the same material: the paired difference of right items, with an interval over sources.
//!
//! Packs that are measured on the same sources err on the same sources, so the difference of their figures varies much less than
//! each figure does. The bootstrap draws sources and takes both packs' items of each.

use std::collections::BTreeMap;

use super::by_source::mean_over_sources;
use super::result::{Comparison, Evaluation, KindComparison, SourceShare, Verdict};
use crate::dataset::Kind;

/// Compares the decisions of `this` with those of `other`, which were made on the same side of the same dataset. `seed` is that of the
/// bootstrap.
///
/// # Errors
/// A sentence, when the two have no item in common, or have other items of a source.
pub fn compare(this: &Evaluation, other: &Evaluation, seed: u64) -> Result<Comparison, String> {
    if this.side != other.side {
        return Err(format!("it is of the {} side, this evaluation of the {} side", other.side, this.side));
    }
    let key = |share: &SourceShare| (share.kind, share.source.clone(), share.class.clone());
    let others: BTreeMap<_, &SourceShare> = other.shares.iter().map(|share| (key(share), share)).collect();
    // The differences of each source, by kind.
    let mut kinds: BTreeMap<Kind, BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    let mut common = 0;
    for share in &this.shares {
        let Some(other) = others.get(&key(share)) else { continue };
        if other.items != share.items {
            let (source, class) = (&share.source, &share.class);
            return Err(format!("it has {} items of {class} from {source}, not {}", other.items, share.items));
        }
        common += 1;
        let difference = (share.right as f64 - other.right as f64) / share.items.max(1) as f64;
        kinds.entry(share.kind).or_default().entry(&share.source).or_default().push(difference);
    }
    if common == 0 {
        return Err("it has no material in common with this evaluation, or an earlier version wrote it".into());
    }
    let kinds: Vec<KindComparison> = kinds
        .into_iter()
        .map(|(kind, sources)| {
            let differences: Vec<Vec<f64>> = sources.into_values().collect();
            let difference = mean_over_sources(&differences, seed);
            let verdict = match difference.ends() {
                Some((low, _)) if low > 0.0 => Verdict::Better,
                Some((_, high)) if high < 0.0 => Verdict::Worse,
                _ => Verdict::Undecided,
            };
            KindComparison { kind, sources: differences.len() as u64, difference, verdict }
        })
        .collect();
    let has = |verdict| kinds.iter().any(|kind| kind.verdict == verdict);
    let verdict = match (has(Verdict::Worse), has(Verdict::Better)) {
        (true, _) => Verdict::Worse,
        (false, true) => Verdict::Better,
        (false, false) => Verdict::Undecided,
    };
    Ok(Comparison {
        pack: other.pack.clone(),
        weights_sha256: other.weights_sha256.clone(),
        not_compared: (this.shares.len() + other.shares.len() - 2 * common) as u64,
        kinds,
        verdict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::tests::any;

    /// `right` of four items of each source are right.
    fn with_shares(kind: Kind, right: &[u64]) -> Evaluation {
        let share = |(n, right): (usize, &u64)| SourceShare {
            kind,
            source: format!("source-{n}"),
            class: ["golf", "tennis"][n % 2].to_owned(),
            items: 4,
            right: *right,
        };
        Evaluation { shares: right.iter().enumerate().map(share).collect(), ..any() }
    }

    #[test]
    fn a_difference_that_all_sources_share_is_beyond_chance() {
        let (old, new) = (with_shares(Kind::Clip, &[0, 2, 3, 1, 2]), with_shares(Kind::Clip, &[1, 3, 4, 2, 3]));
        let better = compare(&new, &old, 1).unwrap();
        let [clips] = &better.kinds[..] else { panic!("{better:?}") };
        assert_eq!((clips.sources, clips.difference.value, clips.difference.ends()), (5, 0.25, Some((0.25, 0.25))));
        assert_eq!((better.verdict, better.not_compared), (Verdict::Better, 0));
        assert_eq!(compare(&old, &new, 1).unwrap().verdict, Verdict::Worse);
        assert_eq!(compare(&old, &old, 1).unwrap().verdict, Verdict::Undecided);
        // One source decides the mean.
        let one = compare(&with_shares(Kind::Clip, &[4, 2, 3, 1, 2]), &old, 1).unwrap();
        assert!(one.kinds[0].difference.value > 0.0);
        assert_eq!(one.verdict, Verdict::Undecided);
    }

    #[test]
    fn worse_on_one_kind_is_worse() {
        let mut old = with_shares(Kind::Clip, &[0, 2, 3]);
        old.shares.extend(with_shares(Kind::Frame, &[3, 2, 2]).shares);
        let mut new = with_shares(Kind::Clip, &[1, 3, 4]);
        new.shares.extend(with_shares(Kind::Frame, &[2, 1, 1]).shares);
        let compared = compare(&new, &old, 1).unwrap();
        assert_eq!(
            compared.kinds.iter().map(|kind| (kind.kind, kind.verdict)).collect::<Vec<_>>(),
            [(Kind::Clip, Verdict::Better), (Kind::Frame, Verdict::Worse)]
        );
        assert_eq!(compared.verdict, Verdict::Worse);
    }

    #[test]
    fn a_single_source_decides_nothing_and_other_material_is_refused() {
        let (old, new) = (with_shares(Kind::Clip, &[0]), with_shares(Kind::Clip, &[4]));
        assert_eq!(compare(&new, &old, 1).unwrap().verdict, Verdict::Undecided);
        assert!(compare(&new, &with_shares(Kind::Frame, &[0]), 1).unwrap_err().contains("no material in common"));
        let mut larger = old.clone();
        larger.shares[0].items = 5;
        assert_eq!(compare(&new, &larger, 1).unwrap_err(), "it has 5 items of golf from source-0, not 4");
        let validation = Evaluation { side: "validation".into(), ..old.clone() };
        assert!(compare(&new, &validation, 1).unwrap_err().contains("of the validation side"));
        let more = with_shares(Kind::Clip, &[4, 4, 4]);
        assert_eq!(compare(&more, &old, 1).unwrap().not_compared, 2, "classes or sources that the other lacks");
    }
}
