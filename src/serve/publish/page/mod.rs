//! The files of the overlay page, embedded in the binary: plain HTML, CSS and JavaScript modules, without a build step
//! and without external resources.

/// Content type and text of file `name` of the page.
pub(super) fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    const HTML: &str = "text/html; charset=utf-8";
    const CSS: &str = "text/css; charset=utf-8";
    const JS: &str = "text/javascript; charset=utf-8";
    Some(match name {
        "index.html" => (HTML, include_str!("index.html")),
        "login.html" => (HTML, include_str!("login.html")),
        "login.js" => (JS, include_str!("login.js")),
        "style.css" => (CSS, include_str!("style.css")),
        "app.js" => (JS, include_str!("app.js")),
        "colours.js" => (JS, include_str!("colours.js")),
        "live.js" => (JS, include_str!("live.js")),
        "panels.js" => (JS, include_str!("panels.js")),
        "timeline.js" => (JS, include_str!("timeline.js")),
        "icon.svg" => ("image/svg+xml", include_str!("icon.svg")),
        _ => return None,
    })
}
