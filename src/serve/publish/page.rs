//! The files of the overlay page, embedded in the binary: plain HTML, CSS and JavaScript modules, without a build step
//! and without external resources.

/// Content type and text of file `name` of the page.
pub(super) fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    const HTML: &str = "text/html; charset=utf-8";
    const CSS: &str = "text/css; charset=utf-8";
    const JS: &str = "text/javascript; charset=utf-8";
    Some(match name {
        "index.html" => (HTML, include_str!("page/index.html")),
        "login.html" => (HTML, include_str!("page/login.html")),
        "login.js" => (JS, include_str!("page/login.js")),
        "style.css" => (CSS, include_str!("page/style.css")),
        "app.js" => (JS, include_str!("page/app.js")),
        "colours.js" => (JS, include_str!("page/colours.js")),
        "live.js" => (JS, include_str!("page/live.js")),
        "panels.js" => (JS, include_str!("page/panels.js")),
        "timeline.js" => (JS, include_str!("page/timeline.js")),
        "icon.svg" => ("image/svg+xml", include_str!("page/icon.svg")),
        _ => return None,
    })
}
