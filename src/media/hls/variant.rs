//! Chooses the variant and the audio rendition to play.

use super::playlist::{AudioRendition, MultivariantPlaylist, Variant};
use crate::options::{HlsOptions, VariantChoice};

/// The variants worth trying, best first: those with pictures, then those that may have none.
pub(super) fn ranked(list: &MultivariantPlaylist, options: &HlsOptions, frame_height: u32) -> Vec<Variant> {
    let mut all: Vec<&Variant> = list.variants.iter().collect();
    // Without a height, the bit rate is compared.
    let size = |v: &Variant| (v.height.unwrap_or(0), v.bandwidth);
    all.sort_by_key(|v| size(v));
    all.dedup_by_key(|v| (v.url.clone(), v.sound_group.clone()));
    let is_too_tall = |v: &&Variant| options.max_height.is_some_and(|max| v.height.is_some_and(|h| h > max));
    let (tall, mut rest): (Vec<&Variant>, Vec<&Variant>) = all.into_iter().partition(is_too_tall);
    match options.variant {
        VariantChoice::Lowest => {}
        VariantChoice::Highest => rest.reverse(),
        VariantChoice::Fit => {
            // Ascending from the first that suffices, then descending from the largest that does not.
            let first = rest.iter().position(|v| v.height.is_some_and(|h| h >= frame_height));
            let mut small: Vec<&Variant> = rest.drain(..first.unwrap_or(rest.len())).collect();
            if first.is_some() || small.iter().any(|v| v.height.is_some()) {
                small.reverse();
            }
            rest.extend(small);
        }
    }
    rest.extend(tall);
    // A stable sort keeps the order within each kind.
    rest.sort_by_key(|v| kind(v));
    rest.into_iter().cloned().collect()
}

/// 0: has pictures; 1: may have pictures; 2: sound only.
fn kind(variant: &Variant) -> u8 {
    match (&variant.codecs, variant.height) {
        (_, Some(_)) => 0,
        (Some(codecs), None) if codecs.split(',').any(is_picture_codec) => 0,
        (None, None) => 1,
        (Some(_), None) => 2,
    }
}

/// Whether a codec string (RFC 6381) is a video codec.
fn is_picture_codec(codec: &str) -> bool {
    const PICTURES: [&str; 11] =
        ["avc1", "avc3", "hvc1", "hev1", "dvh1", "dvhe", "vp08", "vp09", "av01", "mp4v", "jpeg"];
    PICTURES.iter().any(|known| codec.trim().to_ascii_lowercase().starts_with(known))
}

/// The audio rendition of `variant`; [`None`]: the sound is in the variant itself, or there is none.
pub(super) fn sound(list: &MultivariantPlaylist, variant: &Variant, options: &HlsOptions) -> Option<AudioRendition> {
    let group = variant.sound_group.as_deref()?;
    let of_group: Vec<&AudioRendition> = list.renditions.iter().filter(|s| s.group == group).collect();
    let in_language = || {
        let wanted = options.audio_language.as_deref()?.to_ascii_lowercase();
        let speaks = |sound: &&&AudioRendition| {
            let language = sound.language.as_deref().unwrap_or_default().to_ascii_lowercase();
            language == wanted || language.split('-').next() == wanted.split('-').next() && !language.is_empty()
        };
        of_group.iter().find(speaks)
    };
    let chosen = of_group.iter().find(|s| s.is_default).or_else(in_language).or_else(|| of_group.first());
    // A rendition with the variant's own playlist needs no second player.
    chosen.filter(|s| s.url.as_ref().is_some_and(|url| *url != variant.url)).map(|s| (*s).clone())
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    fn list(variants: &[(&str, u64, Option<u32>, Option<&str>)]) -> MultivariantPlaylist {
        let url = |name: &str| Url::parse("http://h.example/").unwrap().join(name).unwrap();
        let variant = |&(name, bandwidth, height, codecs): &(&str, u64, Option<u32>, Option<&str>)| Variant {
            url: url(name),
            bandwidth,
            height,
            codecs: codecs.map(str::to_owned),
            sound_group: None,
        };
        MultivariantPlaylist { variants: variants.iter().map(variant).collect(), ..MultivariantPlaylist::default() }
    }

    fn order(list: &MultivariantPlaylist, options: &HlsOptions) -> String {
        ranked(list, options, 288).iter().map(|v| v.url.path()[1..].to_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_smallest_sufficient_variant_is_first_and_sound_alone_is_last() {
        let ladder = list(&[
            ("sound", 64, None, Some("mp4a.40.2")),
            ("1080", 6000, Some(1080), None),
            ("180", 300, Some(180), None),
            ("360", 900, Some(360), None),
            ("720", 3000, Some(720), None),
        ]);
        let choose = |variant, max_height| order(&ladder, &HlsOptions { variant, max_height, ..HlsOptions::default() });
        assert_eq!(choose(VariantChoice::Fit, None), "360 720 1080 180 sound");
        assert_eq!(choose(VariantChoice::Lowest, None), "180 360 720 1080 sound");
        assert_eq!(choose(VariantChoice::Highest, Some(720)), "720 360 180 1080 sound");
        assert_eq!(choose(VariantChoice::Fit, Some(200)), "180 360 720 1080 sound");
        let small = list(&[("90", 1, Some(90), None), ("180", 2, Some(180), None)]);
        assert_eq!(order(&small, &HlsOptions::default()), "180 90");
        let unspecified = list(&[("b", 2, None, None), ("a", 1, None, None), ("a", 1, None, None)]);
        assert_eq!(order(&unspecified, &HlsOptions::default()), "a b");
    }

    #[test]
    fn the_default_rendition_precedes_the_language_and_the_first() {
        let mut list = list(&[("v", 1, None, None)]);
        list.variants[0].sound_group = Some("g".into());
        let sound_of = |language: &str, is_default| AudioRendition {
            group: "g".into(),
            language: Some(language.into()),
            is_default,
            url: Some(Url::parse(&format!("http://h.example/{language}")).unwrap()),
        };
        list.renditions = vec![sound_of("en", false), sound_of("pt-BR", false)];
        let chosen = |list: &MultivariantPlaylist, language: Option<&str>| {
            let options = HlsOptions { audio_language: language.map(str::to_owned), ..HlsOptions::default() };
            sound(list, &list.variants[0], &options).and_then(|s| s.language)
        };
        assert_eq!(chosen(&list, None).as_deref(), Some("en"));
        assert_eq!(chosen(&list, Some("pt")).as_deref(), Some("pt-BR"));
        list.renditions.push(sound_of("de", true));
        assert_eq!(chosen(&list, Some("pt")).as_deref(), Some("de"));
        list.renditions = vec![AudioRendition { url: None, ..sound_of("de", true) }];
        assert_eq!(chosen(&list, None), None, "the sound is in the variant itself");
    }
}
