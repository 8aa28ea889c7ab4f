//! Drawn labels at the sizes of pictures.

use super::*;

fn class(title: &str, probability: f32, colour: [u8; 3]) -> LabelledClass {
    LabelledClass { name: title.to_lowercase(), title: title.into(), probability, colour }
}

fn content() -> LabelContent {
    let classes = vec![class("American football", 0.75, [200, 40, 90]), class("Rugby <&>", 0.25, [0, 213, 212])];
    LabelContent { answer: classes[0].clone(), classes, is_unknown: false }
}

fn overlay(template: &str) -> Overlay {
    Overlay::new(&OverlayOptions { template: Some(template.into()), ..OverlayOptions::default() }).unwrap()
}

fn size(width: u32, height: u32, pixel_aspect: (u32, u32)) -> PictureSize {
    PictureSize { width, height, pixel_aspect }
}

/// Opaque pixels of a colour.
fn count(drawing: &Drawing, [r, g, b]: [u8; 3]) -> usize {
    drawing.rgba.chunks_exact(4).filter(|pixel| *pixel == [r, g, b, 255]).count()
}

/// Opaque pixels of a colour in the row that has most of them.
fn longest(drawing: &Drawing, [r, g, b]: [u8; 3]) -> usize {
    let rows = drawing.rgba.chunks_exact(drawing.width as usize * 4);
    rows.map(|row| row.chunks_exact(4).filter(|pixel| *pixel == [r, g, b, 255]).count()).max().unwrap()
}

#[test]
fn labels_lie_in_the_safe_area_of_every_picture() {
    for (name, _) in TEMPLATES {
        let overlay = overlay(name);
        let (answer, white) = (content().answer.colour, [255; 3]);
        for picture in [
            size(1280, 720, (1, 1)),
            size(720, 576, (16, 15)),
            size(720, 576, (64, 45)),
            size(360, 640, (1, 1)),
            size(319, 181, (1, 1)),
        ] {
            let drawing = overlay.draw(&content(), picture).unwrap();
            let Drawing { x, y, width, height, .. } = drawing;
            // A pair of pixels for rounding.
            let (across, down) = (picture.width / 20 - 2, picture.height / 20 - 2);
            assert!(x >= across && x + width + across <= picture.width, "{name} {picture:?}: {x} {width}");
            assert!(y >= down && y + height + down <= picture.height, "{name} {picture:?}: {y} {height}");
            assert_eq!((x % 2, y % 2, width % 2, height % 2), (0, 0, 0, 0), "{name} {picture:?}");
            assert_eq!(drawing.rgba.len(), (width * height * 4) as usize);
            assert!(count(&drawing, answer) > 8, "{name} {picture:?}: the colour of the class");
            assert!(count(&drawing, white) > 8 || picture.width < 400, "{name} {picture:?}: the title");
        }
    }
}

#[test]
fn bars_are_as_long_as_the_probabilities() {
    let drawing = overlay("bars").draw(&content(), size(1920, 1080, (1, 1))).unwrap();
    let [first, second] =
        [content().classes[0].colour, content().classes[1].colour].map(|c| longest(&drawing, c) as f64);
    assert!((first / second - 3.0).abs() < 0.1, "{first} {second}");
    let wide = overlay("bars").draw(&content(), size(720, 576, (64, 45))).unwrap();
    let narrow = overlay("bars").draw(&content(), size(1024, 576, (1, 1))).unwrap();
    assert!(narrow.width > wide.width && narrow.height == wide.height, "pixels that are shown wide are few");
}

#[test]
fn options_replace_the_places_of_the_template() {
    let options = OverlayOptions {
        position: Some(Position::TopRight),
        size: Some(20),
        safe_area: Some(0),
        ..OverlayOptions::default()
    };
    let drawing = Overlay::new(&options).unwrap().draw(&content(), size(1280, 720, (1, 1))).unwrap();
    assert_eq!((drawing.x + drawing.width, drawing.y, drawing.height), (1280, 0, 144));
    assert!(overlay("label").draw(&content(), size(1, 1, (1, 1))).is_none());
}

#[test]
fn templates_that_cannot_be_used_are_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |text: &[u8]| {
        let path = dir.path().join("own.svg");
        std::fs::write(&path, text).unwrap();
        let options = OverlayOptions { template: path.to_str().map(Into::into), ..OverlayOptions::default() };
        Overlay::new(&options).unwrap_err()
    };
    let svg =
        |inside: &str| format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"4\" height=\"4\" {inside}</svg>");
    for (text, part) in [
        (svg(">{{sport}}").into_bytes(), "{{sport}} is not known"),
        (svg(">{{title.0}}").into_bytes(), "{{title.0}} is not known"),
        (svg(">{{title").into_bytes(), "has no }}"),
        (svg("data-size=\"400\">").into_bytes(), "data-size \"400\" is not a number from 0 to 100"),
        (svg("data-position=\"left\">").into_bytes(), "data-position \"left\" is not one of top-left"),
        (b"<html>".to_vec(), "correct the SVG file"),
        (b"\xff\xfe".to_vec(), "not text in UTF-8"),
        (vec![b' '; (TEMPLATE_MAX + 1) as usize], "larger than 1024 KiB"),
    ] {
        let error = refused(&text);
        assert!(error.contains(part) && error.lines().count() == 1, "{error}");
    }
    let missing = |template: &str| {
        Overlay::new(&OverlayOptions { template: Some(template.into()), ..OverlayOptions::default() }).unwrap_err()
    };
    let error = missing("ba\u{202e}rs\n");
    assert!(error.contains("bug, label, bars or the path") && !error.contains(['\n', '\u{202e}']), "{error}");
    let options = OverlayOptions { font: Some(dir.path().join("own.svg")), ..OverlayOptions::default() };
    assert!(Overlay::new(&options).unwrap_err().contains("give a TrueType or OpenType file"));
}

#[test]
fn a_font_file_replaces_the_system_s_font() {
    // Of the package fonts-dejavu-core, which the tests need.
    const SERIF: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSerif-Bold.ttf";
    let draw = |font: Option<PathBuf>| {
        let options = OverlayOptions { font, ..OverlayOptions::default() };
        Overlay::new(&options).unwrap().draw(&content(), size(1280, 720, (1, 1))).unwrap().rgba
    };
    assert!(draw(None) != draw(Some(SERIF.into())));
}
