//! The files of the page, that is the wall, the page of a stream and the history, embedded in the binary: plain HTML, CSS and JavaScript modules, without a build step
//! and without external resources.

/// Content type and text of file `name` of the page.
pub(super) fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    const HTML: &str = "text/html; charset=utf-8";
    const CSS: &str = "text/css; charset=utf-8";
    const JS: &str = "text/javascript; charset=utf-8";
    Some(match name {
        "stream.html" => (HTML, include_str!("stream.html")),
        "wall.html" => (HTML, include_str!("wall.html")),
        "history.html" => (HTML, include_str!("history.html")),
        "teach.html" => (HTML, include_str!("teach.html")),
        "login.html" => (HTML, include_str!("login.html")),
        "login.js" => (JS, include_str!("login.js")),
        "style.css" => (CSS, include_str!("style.css")),
        "wall.css" => (CSS, include_str!("wall.css")),
        "editor.css" => (CSS, include_str!("editor.css")),
        "history.css" => (CSS, include_str!("history.css")),
        "teach.css" => (CSS, include_str!("teach.css")),
        "answers.js" => (JS, include_str!("answers.js")),
        "base.js" => (JS, include_str!("base.js")),
        "colours.js" => (JS, include_str!("colours.js")),
        "editor.js" => (JS, include_str!("editor.js")),
        "feed.js" => (JS, include_str!("feed.js")),
        "fields.js" => (JS, include_str!("fields.js")),
        "grid.js" => (JS, include_str!("grid.js")),
        "history.js" => (JS, include_str!("history.js")),
        "answer.js" => (JS, include_str!("answer.js")),
        "correct.js" => (JS, include_str!("correct.js")),
        "learn.js" => (JS, include_str!("learn.js")),
        "teach.js" => (JS, include_str!("teach.js")),
        "lanes.js" => (JS, include_str!("lanes.js")),
        "manage.js" => (JS, include_str!("manage.js")),
        "past.js" => (JS, include_str!("past.js")),
        "segment.js" => (JS, include_str!("segment.js")),
        "sums.js" => (JS, include_str!("sums.js")),
        "live.js" => (JS, include_str!("live.js")),
        "panels.js" => (JS, include_str!("panels.js")),
        "part.js" => (JS, include_str!("part.js")),
        "pictures.js" => (JS, include_str!("pictures.js")),
        "probe.js" => (JS, include_str!("probe.js")),
        "requests.js" => (JS, include_str!("requests.js")),
        "stream.js" => (JS, include_str!("stream.js")),
        "tile.js" => (JS, include_str!("tile.js")),
        "timeline.js" => (JS, include_str!("timeline.js")),
        "times.js" => (JS, include_str!("times.js")),
        "wall.js" => (JS, include_str!("wall.js")),
        "icon.svg" => ("image/svg+xml", include_str!("icon.svg")),
        _ => return None,
    })
}
