use super::*;

fn touch(dir: &Path, names: &[&str]) {
    for name in names {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
}

fn gathered(input: &Path) -> Material {
    gather(&[input.to_owned()]).unwrap()
}

fn rejected(input: &Path) -> String {
    gather(&[input.to_owned()]).unwrap_err().to_string()
}

#[test]
fn manifests_are_read_and_missing_ones_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    assert!(read(dir.path()).unwrap_err().to_string().contains("images/manifest.csv"));
    std::fs::create_dir(dir.path().join("clips")).unwrap();
    let manifest = dir.path().join("clips/manifest.csv");
    std::fs::write(
        &manifest,
        "path,class,source,tier,weak,audio\na.mp4,tennis,x+y,real,,yes\nb.mp4,golf,z,real,weak,silent\n",
    )
    .unwrap();
    let items = read(dir.path()).unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0].path, Path::new("clips/a.mp4"));
    assert_eq!((items[0].source.as_str(), items[0].weak, items[0].audible), ("x/y", false, true));
    assert_eq!(items[0].group, "x/y");
    assert!(items[1].weak && !items[1].audible);
    assert!(gathered(dir.path()).notes[0].contains("folders with manifests"));
    std::fs::write(&manifest, "path,class\na.mp4,tennis\n").unwrap();
    assert!(read(dir.path()).unwrap_err().to_string().contains("source"));
    std::fs::create_dir(dir.path().join("images")).unwrap();
    std::fs::write(&manifest, "path,class,source\n").unwrap();
    std::fs::write(dir.path().join("images/manifest.csv"), "path,class,source\np.jpg,golf,web\nq.jpg,golf,web\n")
        .unwrap();
    let items = read(dir.path()).unwrap();
    assert_eq!((items[0].group.as_str(), items[0].source.as_str()), ("images/p.jpg", "web"), "its own source");
}

#[test]
fn a_folder_per_class_is_gathered() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        "tennis/1.mp4",
        "tennis/final/a.MKV",
        "tennis/final/deep/b.mp4",
        "golf/1.mp4",
        "golf/notes.txt",
        "golf/.hidden.mp4",
        "golf/1.jpg",
        "golf/crowd.wav",
        "readme.md",
    ];
    touch(dir.path(), &files);
    std::fs::create_dir(dir.path().join("rugby")).unwrap();
    let material = gathered(dir.path());
    let entries: Vec<_> = material
        .entries
        .iter()
        .map(|e| (e.item.path.to_str().unwrap(), e.item.class.as_str(), e.item.source.as_str(), e.item.kind))
        .collect();
    assert_eq!(
        entries,
        [
            ("golf/1.jpg", "golf", "1", Kind::Picture),
            ("golf/1.mp4", "golf", "1", Kind::Clip),
            ("golf/crowd.wav", "golf", "crowd", Kind::Sound),
            ("tennis/1.mp4", "tennis", "1", Kind::Clip),
            ("tennis/final/a.MKV", "tennis", "final", Kind::Clip),
            ("tennis/final/deep/b.mp4", "tennis", "final", Kind::Clip),
        ]
    );
    let group = |i: usize| material.entries[i].item.group.as_str();
    assert!(group(4) == group(5) && group(1) != group(3), "equal names of two classes are two sources");
    let notes = material.notes.join("\n");
    for word in ["a folder per class, 6", "left out empty class folders: rugby", "left out 2 files"] {
        assert!(notes.contains(word), "{word}: {notes}");
    }
    touch(dir.path(), &["Golf/2.mp4"]);
    assert!(rejected(dir.path()).contains("two spellings, \"Golf\" and \"golf\""), "{}", rejected(dir.path()));
}

#[test]
fn folders_without_usable_material_are_rejected_with_the_cause() {
    let dir = tempfile::tempdir().unwrap();
    assert!(rejected(dir.path()).contains("no class folder with recordings"));
    touch(dir.path(), &["a.mp4"]);
    assert!(rejected(dir.path()).contains("but not in class folders"));
    touch(dir.path(), &["Ice Hockey/a.mp4"]);
    assert!(rejected(dir.path()).contains("as in \"icehockey\""));
    assert!(rejected(&dir.path().join("gone")).contains("gone"));
}

#[test]
fn a_csv_with_parts_kinds_and_sources_is_gathered() {
    let dir = tempfile::tempdir().unwrap();
    let csv = dir.path().join("list.csv");
    let text = "path, class, start, end, source, licence, weak, kind
match.mp4, tennis, 1.5, 0:01:02.25, final, CC-BY 4.0, no,
match.mp4, golf, 1:02:03, , final, , yes,
stills/a.jpg, golf, , , , , ,
talk.mp4, golf, , , , , , sound
talk.mp4, golf, , , , , , sound
stills/b.jpg, golf, , , final, , , frame
";
    std::fs::write(&csv, text).unwrap();
    let material = gathered(&csv);
    assert_eq!(material.roots, [std::fs::canonicalize(dir.path()).unwrap()]);
    let items: Vec<&Item> = material.entries.iter().map(|e| &e.item).collect();
    assert_eq!(items.len(), 5, "a repeated entry is used once");
    assert_eq!((items[0].start_ns, items[0].end_ns), (Some(1_500_000_000), Some(62_250_000_000)));
    assert_eq!((items[1].start_ns, items[1].end_ns), (Some(3_723_000_000_000), None));
    assert_eq!((items[0].licence.as_str(), items[0].weak, items[1].weak), ("CC-BY 4.0", false, true));
    assert_eq!((items[2].kind, items[3].kind), (Kind::Picture, Kind::Sound));
    assert_eq!((items[4].kind, items[4].audible, &items[4].group), (Kind::Frame, false, &items[0].group));
    assert!(items[0].group == items[1].group && items[2].group == "stills/a.jpg");
    assert!(material.notes.iter().any(|n| n.contains("a single source: tennis")), "{:?}", material.notes);

    for (line, cause) in [
        ("a.mp4,tennis,x,", "line 2: start is \"x\""),
        ("a.mp4,tennis,1:75,", "line 2: start is \"1:75\""),
        ("a.mp4,tennis,5,5", "line 2: end is not after start"),
        ("a.png,tennis,5,6", "line 2: a still has a start"),
        (",tennis,,", "line 2: path is empty"),
        ("a.mp4,,,", "line 2: class is empty"),
        ("a.mp4,tennis", "line: 2"),
        ("a.mp4,tennis,,\na.mp4,golf,,", "two classes, tennis and golf"),
    ] {
        std::fs::write(&csv, format!("path,class,start,end\n{line}\n")).unwrap();
        assert!(rejected(&csv).contains(cause), "{cause}: {}", rejected(&csv));
    }
    std::fs::write(&csv, "file,class\na,b\n").unwrap();
    assert!(rejected(&csv).contains("no column path"));
}

#[test]
fn a_file_with_two_paths_is_used_once() {
    let dir = tempfile::tempdir().unwrap();
    touch(dir.path(), &["in/tennis/a.mp4", "in/tennis/b.mp4", "lists/read.me"]);
    std::os::unix::fs::symlink(dir.path().join("in"), dir.path().join("link")).unwrap();
    let csv = dir.path().join("lists/list.csv");
    let both = |text: &str| {
        std::fs::write(&csv, text).unwrap();
        gather(&[csv.clone(), dir.path().join("in")])
    };
    let material = both("path,class\n../in/tennis/a.mp4,tennis\n./../link/tennis/a.mp4,tennis\n").unwrap();
    let paths: Vec<_> = material.entries.iter().map(|e| e.item.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["../in/tennis/a.mp4", "tennis/b.mp4"]);
    assert!(material.notes.iter().any(|n| n == "2 repeated entries are used once"), "{:?}", material.notes);
    // A part differs from the whole recording, but has the same source, and with it the source that its CSV states.
    let material =
        both("path,class,end,source\n../link/tennis/a.mp4,tennis,5,final\n../gone.mp4,tennis,,final\n").unwrap();
    let groups: Vec<_> = material.entries.iter().map(|e| e.item.group.as_str()).collect();
    assert_eq!(groups, ["final", "final", "final", "tennis/b"]);
    assert!(material.notes.iter().any(|n| n.starts_with("1 sources are merged")), "{:?}", material.notes);
    let error = both("path,class\n../link/tennis/a.mp4,golf\n").unwrap_err().to_string();
    assert!(error.contains("in/tennis/a.mp4") && error.contains("two classes, golf and tennis"), "{error}");
}

#[test]
fn times_are_exact() {
    for (text, ns) in [("0", 0), ("12", 12_000_000_000), ("0.000000001", 1), ("1:00.5", 60_500_000_000)] {
        assert_eq!(nanos(text), Some(ns), "{text}");
    }
    for text in ["", "-1", "1.", ".5", "1e3", "1:60", "1:1:1:1", "1.0000000001", "99999999999999999999", "1:.5"] {
        assert_eq!(nanos(text), None, "{text}");
    }
}
