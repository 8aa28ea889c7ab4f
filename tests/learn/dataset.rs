//! `touchline dataset`: build, split and stats.

use std::path::Path;
use std::process::Output;

use crate::common::Fixtures;
use crate::common::program::{self, touchline};
use touchline_learn::dataset::{Dataset, Kind};

fn dataset(arguments: &[&str]) -> Output {
    program::finish(touchline().arg("dataset").args(arguments))
}

/// Runs `touchline dataset`, expects success, and returns standard output and standard error.
fn succeeds(arguments: &[&str]) -> (String, String) {
    let output = dataset(arguments);
    let [out, error] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b).into_owned());
    assert!(output.status.success(), "{arguments:?}\n{out}\n{error}");
    (out, error)
}

fn fails(arguments: &[&str], code: i32, message: &str) {
    let output = dataset(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{error}");
    assert!(error.contains(message) && !error.contains("panicked"), "{message}: {error}");
}

const ENCODE: &str = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 25";

/// A folder per class. `plain` has a recording, a copy of it at another size and bit rate, and a still; `fractal` has a
/// recording and a broken file; `tone` has a recording with sound only.
fn material(fixtures: &Fixtures) -> std::path::PathBuf {
    for class in ["plain", "fractal", "tone"] {
        std::fs::create_dir_all(fixtures.path().join("in").join(class)).unwrap();
    }
    let sound = "-f lavfi -i sine=frequency=440:sample_rate=44100:duration=4";
    let first = fixtures.make(
        "in/plain/take.mp4",
        &format!("-f lavfi -i testsrc=size=640x360:rate=25:duration=4 {sound} {ENCODE} -c:a aac"),
    );
    let again = format!("-i {} -an -vf scale=256:144,fps=20 -t 4 {ENCODE} -b:v 80k", first.display());
    fixtures.make("in/plain/again.mp4", &again);
    fixtures.make("in/plain/still.png", "-f lavfi -i smptebars=size=400x300 -frames:v 1");
    let fractal = format!("-f lavfi -i mandelbrot=size=320x180:rate=25 -t 3 {ENCODE}");
    fixtures.make("in/fractal/zoom.mp4", &fractal);
    fixtures.make("in/tone/a.m4a", "-f lavfi -i sine=frequency=880:duration=3 -c:a aac");
    fixtures.write("in/fractal/broken.mp4", b"this is no recording");
    fixtures.path().join("in")
}

#[test]
fn a_folder_becomes_a_dataset_with_split_and_figures() {
    let fixtures = Fixtures::new();
    let input = material(&fixtures);
    let out = fixtures.path().join("set");
    let (input, out) = (input.to_str().unwrap(), out.to_str().unwrap());
    fails(&["split", out], 6, "not a dataset");
    let (printed, errors) = succeeds(&["build", input, "-o", out, "--frame-height", "180", "--jobs", "2"]);
    assert!(errors.contains("a folder per class, 6") && errors.contains("broken.mp4"), "{errors}");
    for words in
        ["3 clips and 1 sounds of 14 seconds, 1 pictures", "0 of 6 are from an earlier build", "1 of 6 were skipped"]
    {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    assert!(
        printed.contains("1 pairs of recordings, 0 of pictures, 0 of a picture and a recording; 1 groups were merged"),
        "{printed}"
    );

    let set = Dataset::open(Path::new(out)).unwrap();
    let index_of = |path: &str| set.items.iter().position(|i| i.path == Path::new(path)).unwrap();
    let (take, again, zoom) = (index_of("plain/take.mp4"), index_of("plain/again.mp4"), index_of("fractal/zoom.mp4"));
    assert_eq!(set.items[take].group, set.items[again].group, "a copy at another size and bit rate");
    assert_ne!(set.items[take].group, set.items[zoom].group);
    assert!(set.items[take].audible && !set.items[zoom].audible);
    let second = &set.seconds(take).unwrap()[1];
    assert_eq!((second.frames[0].width, second.frames[0].height), (320, 180));
    assert_eq!((second.rgb.len(), second.pairs.len()), (5, 5));
    assert_eq!(second.audio.as_ref().map(Vec::len), Some(32_000));
    assert_eq!(set.items[index_of("tone/a.m4a")].kind, Kind::Sound);

    let (printed, _) = succeeds(&["build", input, "-o", out, "--frame-height", "180"]);
    assert!(printed.contains("5 of 6 are from an earlier build"), "{printed}");
    // The default height of 288 lines needs a new cut.
    let (printed, _) = succeeds(&["build", input, "-o", out]);
    assert!(printed.contains("1 of 6 are from an earlier build"), "{printed}");
    fails(&["build", input, "-o", out, "--strict"], 7, "1 of 6 inputs failed");

    let (printed, warned) = succeeds(&["split", out, "--seed", "3"]);
    assert!(printed.contains("train: ") && warned.contains("tone, sounds: no validation or test items"), "{warned}");
    let split = Dataset::open(Path::new(out)).unwrap();
    assert_eq!(split.sides().unwrap()[take], split.sides().unwrap()[again]);
    let (table, _) = succeeds(&["stats", out]);
    assert!(table.lines().any(|l| l.split_whitespace().take(5).eq(["plain", "2", "8", "-", "-"])), "{table}");
    let chart = std::fs::read_to_string(Path::new(out).join("stats.svg")).unwrap();
    assert!(chart.contains("fractal") && chart.contains("</svg>"));
}

#[test]
fn a_csv_selects_parts_of_a_recording() {
    let fixtures = Fixtures::new();
    fixtures.clip("match.mp4", 6);
    let csv = fixtures.write(
        "list.csv",
        b"path,class,start,end,source,licence\nmatch.mp4,play,0.5,3,final,CC0\nmatch.mp4,other,0:00:03,0:00:05.0,final,\n",
    );
    let out = fixtures.path().join("set");
    let (csv, out) = (csv.to_str().unwrap(), out.to_str().unwrap());
    succeeds(&["build", csv, "-o", out]);
    let set = Dataset::open(Path::new(out)).unwrap();
    let indices = |i| set.seconds(i).unwrap().iter().map(|s| s.index).collect::<Vec<_>>();
    assert_eq!((indices(0), indices(1)), (vec![1, 2], vec![3, 4]));
    assert_eq!((set.items[0].licence.as_str(), set.items[0].source.as_str()), ("CC0", "final"));
}

#[test]
fn invalid_material_is_an_error_of_one_line() {
    let fixtures = Fixtures::new();
    let out = fixtures.path().join("set");
    let out = out.to_str().unwrap();
    for (name, text, message) in [
        ("two.csv", "path,class\na.mp4,Tennis\nb.mp4,tennis\n", "two spellings"),
        ("end.csv", "path,class,start,end\na.mp4,tennis,3,2\n", "line 2: end is not after start"),
        ("column.csv", "file,class\na.mp4,tennis\n", "no column path"),
        ("gone.csv", "path,class\na.mp4,tennis\n", "none of 1"),
    ] {
        let csv = fixtures.write(name, text.as_bytes());
        fails(&["build", csv.to_str().unwrap(), "-o", out], 6, message);
    }
    fails(&["build", "/nowhere", "-o", out], 6, "/nowhere");
    let csv = fixtures.write("one.csv", b"path,class\nlist.csv,tennis\n");
    fails(&["build", csv.to_str().unwrap(), "-o", "/proc/set"], 5, "/proc/set");
    fails(&["build", csv.to_str().unwrap(), "-o", out, "--sample-rate", "1"], 2, "--sample-rate");
}

#[test]
fn a_reencoded_clip_joins_the_group_of_its_original_and_no_other() {
    let Some(data) = program::data() else { return };
    let fixtures = Fixtures::new();
    std::fs::create_dir_all(fixtures.path().join("in/tennis")).unwrap();
    let mut clips: Vec<_> = std::fs::read_dir(data.join("clips/tennis")).unwrap().map(|e| e.unwrap().path()).collect();
    clips.sort();
    clips.truncate(3);
    for (n, clip) in clips.iter().enumerate() {
        std::fs::copy(clip, fixtures.path().join(format!("in/tennis/{n}.mp4"))).unwrap();
        let again = format!("-i {} -an -vf scale=-2:120 {ENCODE} -b:v 90k", clip.display());
        fixtures.make(&format!("in/tennis/{n}-again.mp4"), &again);
    }
    let (input, out) = (fixtures.path().join("in"), fixtures.path().join("set"));
    succeeds(&["build", input.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let groups: Vec<_> = Dataset::open(&out).unwrap().items.into_iter().map(|i| i.group).collect();
    // In the order of names: 0-again, 0, 1-again, …
    assert!(groups.chunks(2).all(|pair| pair[0] == pair[1]), "{groups:?}");
    let distinct: std::collections::BTreeSet<_> = groups.iter().collect();
    assert_eq!(distinct.len(), 3, "{groups:?}");
}
