//! GStreamer's own log (`GST_DEBUG`), redacted: its lines have whole addresses in them, and logins on their own.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;

use gstreamer as gst;

use crate::redact;

/// Puts a log of ours in place of GStreamer's, where one is wanted. Lines go where `GST_DEBUG_FILE` says, else to standard
/// error.
pub(super) fn connect() {
    if std::env::var_os("GST_DEBUG").is_none() {
        return;
    }
    let file = std::env::var_os("GST_DEBUG_FILE").filter(|path| path != "-");
    let file = file.and_then(|path| match File::create(&path) {
        Ok(file) => Some(Mutex::new(file)),
        Err(e) => {
            tracing::warn!("GST_DEBUG_FILE {}: {e}; the log goes to standard error", path.display());
            None
        }
    });
    gst::log::remove_default_log_function();
    gst::log::add_log_function(move |category, level, place, _function, line, object, message| {
        if level > category.threshold() {
            return;
        }
        let object = object.map(|o| o.to_string()).unwrap_or_default();
        let text = message.get().unwrap_or_default();
        let place = place.rsplit('/').next().unwrap_or_default();
        let shown = redact::text(&format!("{} {object} {text}", category.name()));
        let at = gst::get_timestamp();
        let line = format!("{at} {} {place}:{line} {shown}\n", level.name());
        // A log that cannot be written has nowhere to say so.
        let _ = match &file {
            Some(file) => file.lock().unwrap_or_else(|e| e.into_inner()).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    });
}
