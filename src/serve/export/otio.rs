//! OpenTimelineIO (`.otio`), with the versions of schemas that version 0.14 and later read.

use serde_json::{Value, json};

use super::place::{Export, PlacedSegment, gaps, modalities, probability};
use super::text::{file_name, plain};
use crate::record::format::rfc3339;
use touchline_core::colours;

/// The timeline. With `cut` it has a clip per segment, else one clip with a marker per segment.
pub(super) fn render(export: &Export<'_>, media: Option<&str>, cut: bool) -> String {
    let reference = reference(export, media);
    let name = plain(file_name(export.stream));
    let clips: Vec<Value> = if cut {
        let clip = |placed: &PlacedSegment| {
            clip(export, &export.title(placed), &reference, (placed.begin, placed.end), vec![marker(export, placed)])
        };
        export.segments.iter().map(clip).collect()
    } else {
        let markers = export.segments.iter().map(|placed| marker(export, placed)).collect();
        vec![clip(export, &name, &reference, (export.begin, export.end), markers)]
    };
    let mut tracks = Vec::new();
    if !export.is_silent {
        // The markers are on the pictures.
        let mut sound = clips.clone();
        sound.iter_mut().for_each(|clip| clip["markers"] = json!([]));
        tracks.push(track("A1", "Audio", sound));
    }
    tracks.insert(0, track("V1", "Video", clips));
    let start = if cut { 0 } else { export.begin };
    let timeline = json!({
        "OTIO_SCHEMA": "Timeline.1",
        "name": name,
        "global_start_time": time(export, start),
        "metadata": {"touchline": {
            "stream": plain(export.stream),
            "version": env!("CARGO_PKG_VERSION"),
            "rate": export.rate.name(),
        }},
        "tracks": {
            "OTIO_SCHEMA": "Stack.1",
            "name": "tracks",
            "children": tracks,
        },
    });
    let mut text = serde_json::to_string_pretty(&timeline).expect("it has string keys only");
    text.push('\n');
    text
}

fn track(name: &str, kind: &str, clips: Vec<Value>) -> Value {
    json!({"OTIO_SCHEMA": "Track.1", "name": name, "kind": kind, "children": clips})
}

fn clip(export: &Export<'_>, name: &str, reference: &Value, (begin, end): (i64, i64), markers: Vec<Value>) -> Value {
    json!({
        "OTIO_SCHEMA": "Clip.1",
        "name": name,
        "source_range": range(export, begin, end),
        "media_reference": reference,
        "markers": markers,
    })
}

fn marker(export: &Export<'_>, placed: &PlacedSegment) -> Value {
    json!({
        "OTIO_SCHEMA": "Marker.2",
        "name": export.title(placed),
        "color": colours::marker(export.class(placed).as_deref()),
        "marked_range": range(export, placed.begin, placed.end),
        "metadata": {"touchline": facts(export, placed)},
    })
}

fn reference(export: &Export<'_>, media: Option<&str>) -> Value {
    let available = range(export, export.media_begin(), export.end);
    match media.and_then(url) {
        Some(url) => {
            json!({"OTIO_SCHEMA": "ExternalReference.1", "target_url": url, "available_range": available})
        }
        None => json!({"OTIO_SCHEMA": "MissingReference.1", "available_range": available}),
    }
}

/// The URL of the media: as given, or that of the file.
fn url(name: &str) -> Option<String> {
    if name.contains("://") {
        return url::Url::parse(name).ok().map(|url| touchline_core::redact::uri(url.as_str()));
    }
    let path = std::path::absolute(name).ok()?;
    url::Url::from_file_path(path).ok().map(String::from)
}

fn time(export: &Export<'_>, frame: i64) -> Value {
    let (numerator, denominator) = export.rate.ratio();
    let rate = f64::from(numerator) / f64::from(denominator);
    json!({"OTIO_SCHEMA": "RationalTime.1", "rate": rate, "value": frame as f64})
}

fn range(export: &Export<'_>, begin: i64, end: i64) -> Value {
    json!({
        "OTIO_SCHEMA": "TimeRange.1",
        "start_time": time(export, begin),
        "duration": time(export, end - begin),
    })
}

/// What is known about a segment, as JSON.
pub(super) fn facts(export: &Export<'_>, placed: &PlacedSegment) -> Value {
    let segment = &placed.segment;
    let share = |millionths: Option<u32>| {
        millionths.map(|p| serde_json::from_str::<Value>(&probability(p)).expect("four decimals are a number"))
    };
    json!({
        "class": export.class(placed),
        "kind": if export.class(placed).is_some() { "class".into() } else { export.kind(placed) },
        "run": segment.run.0,
        "first": segment.first,
        "last": segment.last,
        "seconds": segment.seconds(),
        "began": segment.began_ns.map(rfc3339),
        "ended": segment.ended_ns.map(rfc3339),
        "mean": share(segment.mean),
        "peak": share(segment.peak),
        "peak_second": segment.peak_index,
        "decided": segment.decided,
        "unknown": segment.unknown,
        "decided_by": modalities(segment).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "gaps": gaps(segment).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, anywhere, at};
    use super::*;

    #[test]
    fn markers_and_clips_have_the_frames_of_the_segments() {
        let fixture = Fixture::recording();
        let export = fixture.export(&at("29.97df", "01:00:00;00")).of_classes();
        let whole: Value = serde_json::from_str(&render(&export, None, false)).unwrap();
        let clip = &whole["tracks"]["children"][0]["children"][0];
        assert_eq!(clip["source_range"]["start_time"]["value"], 107_892.0);
        assert_eq!(clip["markers"].as_array().unwrap().len(), 2);
        let tennis = &clip["markers"][1];
        assert_eq!((&tennis["name"], &tennis["color"]), (&json!("Tennis"), &json!("CYAN")));
        // 30 s are 899.1 frames, 50 s 1498.5.
        assert_eq!(tennis["marked_range"]["start_time"]["value"], 107_892.0 + 899.0);
        assert_eq!(tennis["marked_range"]["duration"]["value"], 600.0);
        assert_eq!(tennis["metadata"]["touchline"]["mean"], 0.8);
        assert_eq!(clip["media_reference"]["OTIO_SCHEMA"], "MissingReference.1");
        let cut: Value = serde_json::from_str(&render(&export, Some("/a b/\"x\".mp4"), true)).unwrap();
        let clips = cut["tracks"]["children"][0]["children"].as_array().unwrap();
        assert_eq!(clips.len(), 2);
        let sound = &cut["tracks"]["children"][1];
        assert_eq!((&sound["kind"], sound["children"].as_array().unwrap().len()), (&json!("Audio"), 2));
        assert_eq!(sound["children"][1]["source_range"], clips[1]["source_range"]);
        assert_eq!((&sound["children"][1]["markers"], clips[1]["markers"].as_array().unwrap().len()), (&json!([]), 1));
        let mut silent = export.clone();
        silent.is_silent = true;
        let silent: Value = serde_json::from_str(&render(&silent, None, true)).unwrap();
        assert_eq!(silent["tracks"]["children"].as_array().unwrap().len(), 1);
        assert_eq!(clips[0]["media_reference"]["target_url"], "file:///a%20b/%22x%22.mp4");
    }

    #[test]
    fn passwords_of_a_media_url_are_masked() {
        let fixture = Fixture::recording();
        let text = render(&fixture.export(&anywhere()), Some("https://ann:tr0ub4dor@tv.example/a.mp4"), false);
        assert!(text.contains("tv.example") && !text.contains("tr0ub4dor"));
    }
}
