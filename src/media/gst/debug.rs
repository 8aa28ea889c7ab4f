//! GStreamer's log (`GST_DEBUG`), redacted because it contains addresses and logins, and GLib's warnings, rate-limited because they
//! may repeat thousands of times per second.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::thread::{self, ThreadId};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use parking_lot::Mutex;

use touchline_core::clock::{Clock, SystemClock};
use touchline_core::redact;

/// Minimum time between two equal warnings.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// The most different warnings within that time. Further ones are dropped.
const WARNINGS_MAX: usize = 20;

/// Recent warnings, each with the time of its last log line and the number suppressed since.
#[derive(Debug, Default)]
struct WarningLimiter(BTreeMap<String, (Duration, u64)>);

impl WarningLimiter {
    /// If `text` is to be logged at `now`, the number of suppressed repetitions.
    fn is_due(&mut self, text: &str, now: Duration) -> Option<u64> {
        if let Some((logged_at, suppressed)) = self.0.get_mut(text) {
            if now.saturating_sub(*logged_at) < REPEAT_AFTER {
                *suppressed += 1;
                return None;
            }
            *logged_at = now;
            return Some(std::mem::take(suppressed));
        }
        if self.0.len() >= WARNINGS_MAX {
            self.0.retain(|_, (logged_at, _)| now.saturating_sub(*logged_at) < REPEAT_AFTER);
        }
        let has_room = self.0.len() < WARNINGS_MAX;
        has_room.then(|| {
            self.0.insert(text.to_owned(), (now, 0));
            0
        })
    }
}

/// Logs GLib's warnings, each at most once a minute.
pub(super) fn limit_glib_warnings() {
    let (clock, limiter) = (SystemClock::new(), Mutex::new(WarningLimiter::default()));
    glib::log_set_default_handler(move |domain, level, message| {
        if matches!(level, glib::LogLevel::Info | glib::LogLevel::Debug) {
            return;
        }
        let text = redact::text(&format!("{}: {message}", domain.unwrap_or("GLib")));
        let due = limiter.lock().is_due(&text, Duration::from_nanos(clock.mono_ns()));
        match due {
            None => {}
            Some(0) => tracing::warn!("{text}"),
            Some(suppressed) => tracing::warn!("{text} ({suppressed} more since the last message)"),
        }
    });
}

/// Replaces GStreamer's log function by one that redacts, if `GST_DEBUG` is set. Lines go to `GST_DEBUG_FILE` or to standard error.
/// Also counts the decode errors that libav logs.
pub(super) fn connect() {
    let wanted = std::env::var("GST_DEBUG").unwrap_or_default();
    // A threshold for libav in `GST_DEBUG` is kept.
    if !wanted.contains(LIBAV) {
        gst::log::set_threshold_for_name(LIBAV, gst::DebugLevel::Error);
    }
    gst::log::add_log_function(|category, level, _, _, _, _, message| {
        let is_error = level == gst::DebugLevel::Error && category.name() == LIBAV;
        if is_error && is_damage(message.get().as_deref().unwrap_or_default()) {
            DECODE_ERRORS.set(DECODE_ERRORS.get() + 1);
        }
    });
    if wanted.is_empty() {
        // It would print the libav errors, which are only counted here.
        gst::log::remove_default_log_function();
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
        // There is no other place to report a log that cannot be written.
        let _ = match &file {
            Some(file) => file.lock().write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    });
}

/// The category of libav's messages in GStreamer's log.
const LIBAV: &str = "libav";

/// Parts of libav's messages about damaged data. Its other messages also occur in intact streams: about reference pictures
/// ("mmco: unref short failure"), SEI, or MP3 that was cut without loss ("invalid new backstep").
const DAMAGE: [&str; 14] = [
    "error while decoding",
    "Error decoding",
    "damaged",
    "corrupt",
    "unavailable for requested",
    "Could not find ref with POC",
    "Invalid NAL unit",
    "non-existing PPS",
    "no frame!",
    "decode_slice_header error",
    "illegal",
    "out of range intra",
    "negative number of zero coeffs",
    "Reserved bit set",
];

/// Whether libav's `message` reports damaged data.
fn is_damage(message: &str) -> bool {
    DAMAGE.iter().any(|piece| message.contains(piece))
}

thread_local! {
    static DECODE_ERRORS: Cell<u64> = const { Cell::new(0) };
}

/// Detects errors that a libav decoder logs. gst-libav does not report damaged and concealed data in any other way. A decoder
/// with one thread logs on the thread that passes it the data.
#[derive(Debug, Default)]
pub(super) struct ErrorWatch {
    /// The thread and its count at the last call.
    last: Option<(ThreadId, u64)>,
}

impl ErrorWatch {
    /// Whether this thread has logged errors since the last call.
    pub fn has_new(&mut self) -> bool {
        let now = (thread::current().id(), DECODE_ERRORS.get());
        // GStreamer reuses threads: errors that another decoder logged on this thread before do not count.
        self.last.replace(now).is_some_and(|last| last.0 == now.0 && last.1 != now.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_about_intact_streams_are_not_damage() {
        for message in
            ["error while decoding MB 12 5, bytestream -7", "Could not find ref with POC 14", "ac-tex damaged at 3 4"]
        {
            assert!(is_damage(message), "{message}");
        }
        for message in ["mmco: unref short failure", "invalid new backstep -1", "SEI type 5 truncated at 512"] {
            assert!(!is_damage(message), "{message}");
        }
    }

    #[test]
    fn errors_count_per_thread_and_from_the_first_check() {
        let log = || DECODE_ERRORS.set(DECODE_ERRORS.get() + 1);
        log();
        let mut watch = ErrorWatch::default();
        assert!(!watch.has_new(), "the error of another decoder");
        assert!(!watch.has_new());
        log();
        log();
        assert!(watch.has_new() && !watch.has_new());
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    log();
                    assert!(!watch.has_new());
                    log();
                    assert!(watch.has_new());
                })
                .join()
                .unwrap()
        });
    }

    #[test]
    fn a_warning_is_logged_once_a_minute_and_the_number_of_warnings_is_bounded() {
        let mut limiter = WarningLimiter::default();
        let at = Duration::from_secs;
        assert_eq!(limiter.is_due("set != NULL", at(1)), Some(0));
        assert!((0..5000).all(|_| limiter.is_due("set != NULL", at(2)).is_none()));
        assert_eq!(limiter.is_due("set != NULL", at(61)), Some(5000));
        let logged = (0..1000).filter(|n| limiter.is_due(&format!("at {n:x}"), at(62)).is_some()).count();
        assert_eq!(logged, WARNINGS_MAX - 1);
        assert_eq!(limiter.is_due("another", at(200)), Some(0));
    }
}
