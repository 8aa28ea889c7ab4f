//! One line per second on the terminal.
//!
//! With one stream on a terminal, the line of the current second replaces the previous one and events stay above it.
//! Otherwise (several streams, a log file, a pipe) every second is a line. Colours are used only on a terminal without
//! `NO_COLOR` (<https://no-color.org>).

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use crate::record::format::class_title;
use crate::record::{Missing, Published, StreamState};
use touchline_core::cause::Cause;
use touchline_core::clip::{Gap, GapReason};
use touchline_core::decision::{DecisionReason, Event, EventKind, SecondOutcome, SecondPrediction};
use touchline_core::expectation::{ExpectationEnd, ExpectationEvent};
use touchline_core::labels::{ClassSet, Modality};
use touchline_core::redact::print_error_line;
use touchline_core::time::Pts;

/// Characters of the probability bar.
const BAR: usize = 20;

/// Returns to the start of the line, clears it, and turns wrapping off: a wrapped line could not be replaced.
const REPLACE: &str = "\r\x1b[2K\x1b[?7l";
/// Turns wrapping on.
const WRAP: &str = "\x1b[?7h";

/// Prints `text` for the person at the terminal. Without a terminal, it is a line of the log, which may be JSON.
pub fn announce(text: &str) {
    if std::io::stderr().is_terminal() {
        print_error_line(format_args!("{text}"));
    } else {
        tracing::info!("{text}");
    }
}

/// How the terminal is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// ANSI colours.
    pub colour: bool,
    /// The current second replaces the previous one.
    pub in_place: bool,
    /// Lines start with the stream's id.
    pub name_streams: bool,
}

impl Style {
    /// The style for `streams` streams, written to a terminal or something else.
    pub fn choose(streams: usize, is_terminal: bool, no_color: bool) -> Self {
        Self { colour: is_terminal && !no_color, in_place: is_terminal && streams == 1, name_streams: streams > 1 }
    }
}

/// Writes seconds, events and states for people.
pub struct Terminal {
    out: Box<dyn Write + Send>,
    style: Style,
    classes: ClassSet,
    /// Width of the widest class title.
    title_width: usize,
    /// A replaceable line is on the screen.
    line_open: bool,
    /// Writing failed; nothing more is written.
    gone: bool,
}

impl Terminal {
    /// Writes to standard output, or to standard error if records use standard output (`stdout_taken`).
    pub fn new(classes: &ClassSet, streams: usize, stdout_taken: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let (out, is_terminal): (Box<dyn Write + Send>, bool) = if stdout_taken {
            (Box::new(io::stderr()), io::stderr().is_terminal())
        } else {
            (Box::new(io::stdout()), io::stdout().is_terminal())
        };
        Self::to(out, classes, Style::choose(streams, is_terminal, no_color))
    }

    /// Writes to `out` in `style`.
    pub fn to(out: Box<dyn Write + Send>, classes: &ClassSet, style: Style) -> Self {
        let title_width = classes.names().iter().map(|n| class_title(n).chars().count()).max().unwrap_or(0);
        Self { out, style, classes: classes.clone(), title_width, line_open: false, gone: false }
    }

    /// Writes one second of `stream` with its events.
    pub fn published(&mut self, stream: &str, published: &Published) {
        for event in &published.events {
            let line = self.event_line(stream, event);
            self.permanent(&line);
        }
        for event in &published.watched.events {
            let line = self.expectation_line(stream, event);
            self.permanent(&line);
        }
        let line = self.second_line(stream, published);
        if self.style.in_place {
            self.put(&format!("{REPLACE}{line}{WRAP}"));
            self.line_open = true;
        } else {
            self.permanent(&line);
        }
    }

    /// Writes a change of the state of `stream`, except playing, which the seconds show.
    pub fn state(&mut self, stream: &str, state: &StreamState) {
        let text = match state {
            StreamState::Playing => return,
            StreamState::Connecting => "connecting".to_owned(),
            StreamState::Waiting { kind: Cause::NoCaller, cause, .. } => cause.clone(),
            StreamState::Waiting { cause, retry_in_ns, .. } => {
                format!("waiting: {cause}; next attempt in {:.1} s", *retry_in_ns as f64 / 1e9)
            }
            StreamState::Paused => "paused".to_owned(),
            StreamState::Held { cause, advice, .. } => format!("paused: {cause}; {advice}"),
            StreamState::Ended => "ended".to_owned(),
            StreamState::Removed => "removed".to_owned(),
            StreamState::Failed { cause, advice, .. } => format!("failed: {cause}; {advice}"),
        };
        let code = match state {
            StreamState::Failed { .. } | StreamState::Held { .. } => "31",
            StreamState::Waiting { .. } => "33",
            _ => "2",
        };
        let line = format!("{stream}: {}", self.paint(code, &text));
        self.permanent(&line);
    }

    /// Ends an open line. Call it at shutdown.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.line_open) {
            self.put("\n");
        }
    }

    /// Writes a line that stays above the replaceable one.
    fn permanent(&mut self, line: &str) {
        let clear = if std::mem::take(&mut self.line_open) { "\r\x1b[2K" } else { "" };
        self.put(&format!("{clear}{line}\n"));
    }

    fn put(&mut self, text: &str) {
        if !self.gone {
            self.gone = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).is_err();
        }
    }

    fn second_line(&self, stream: &str, published: &Published) -> String {
        let mut line = self.prefix(stream, published.outcome.index());
        let estimate = &published.estimate;
        if estimate.seconds > 0 {
            let mean = estimate.probability().clamp(0.0, 1.0);
            let title = class_title(self.classes.name(estimate.label));
            let title = if estimate.is_unknown() { "Not sure".to_owned() } else { title };
            let title = format!("{title:<0$}", self.title_width);
            let full = (mean * BAR as f32).round() as usize;
            let _ = write!(
                line,
                "{}  {}{}  {:>3.0} %",
                self.paint("1", &title),
                self.paint("36", &"█".repeat(full)),
                self.paint("2", &"░".repeat(BAR - full)),
                mean * 100.0
            );
        } else {
            let _ = write!(line, "{:<1$}", "nothing yet", self.title_width + BAR + 9);
        }
        match &published.outcome {
            SecondOutcome::Predicted(second) => self.push_second(&mut line, second),
            SecondOutcome::Gap(gap) => {
                let _ = write!(line, "  {}", self.paint("33", &gap_text(gap)));
            }
        }
        if let Some(ns) = published.latency_ns {
            let _ = write!(line, "  {:.1} s late", ns as f64 / 1e9);
        }
        if published.backlog > 0 {
            let _ = write!(line, "  {}", self.paint("33", &format!("{} s behind", published.backlog)));
        }
        line
    }

    fn push_second(&self, line: &mut String, second: &SecondPrediction) {
        let decision = &second.decision;
        let why = match decision.why {
            DecisionReason::Table => "table",
            DecisionReason::Default => "default",
            DecisionReason::Fallback => "fallback",
        };
        let by = format!("{} ({why})", decision.modality);
        let _ = write!(line, "  {by:<16}");
        for (i, modality) in Modality::ALL.into_iter().enumerate() {
            let said = match second.scores.get(modality) {
                Some(scores) => {
                    format!("{:.0} % {}", scores.score() * 100.0, class_title(self.classes.name(scores.label)))
                }
                None => missing_text(Missing::from(*second.absent.get(modality))).to_owned(),
            };
            let said = format!("{modality} {said}");
            let said = if modality == decision.modality { said } else { self.paint("2", &said) };
            let _ = write!(line, "{}{said}", if i == 0 { "  " } else { " · " });
        }
    }

    fn event_line(&self, stream: &str, event: &Event) -> String {
        let title = class_title(self.classes.name(event.class));
        let (code, what) = match event.kind {
            EventKind::Onset => ("32", format!("▶ {title} is on")),
            EventKind::Offset => ("2", format!("■ {title} is off")),
        };
        self.prefix(stream, event.index) + &self.paint(code, &what)
    }

    fn expectation_line(&self, stream: &str, event: &ExpectationEvent) -> String {
        let titles: Vec<String> = event.expected.names(&self.classes).into_iter().map(class_title).collect();
        let titles = titles.join(" or ");
        let (code, what) = match event.end {
            None => {
                let is = event.on_air.map_or_else(String::new, |on_air| class_title(on_air.name(&self.classes)));
                ("33", format!("! expected {titles}, is {is} for {} s", event.seconds))
            }
            Some(ExpectationEnd::OnAir) => ("32", format!("! {titles}, as expected")),
            Some(ExpectationEnd::Changed | ExpectationEnd::Ended) => ("2", format!("! no longer expected: {titles}")),
        };
        self.prefix(stream, event.index) + &self.paint(code, &what)
    }

    fn prefix(&self, stream: &str, index: u64) -> String {
        let time = Pts::from_second(index).to_string();
        let time = time.strip_suffix(".000").unwrap_or(&time);
        let name = if self.style.name_streams { format!("{stream:<12}  ") } else { String::new() };
        format!("{name}{time:>8}  ")
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.style.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn gap_text(gap: &Gap) -> String {
    match gap.reason {
        GapReason::Overload => "gap: machine overloaded".into(),
        GapReason::NoMedia => "gap: no video and no audio".into(),
        GapReason::Compute => "gap: models failed".into(),
        GapReason::NoProgramme => format!("no programme: {}", gap.signals.titles()),
        GapReason::NotDecoded => "gap: no key picture".into(),
        GapReason::NodeLost => "gap: node lost".into(),
    }
}

fn missing_text(missing: Missing) -> &'static str {
    match missing {
        Missing::NoTrack => "no track",
        Missing::NoData => "no data",
        Missing::NoPairs => "no pairs",
        Missing::NoModel => "no model",
        Missing::Silent => "silent",
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;

    use super::*;
    use crate::testing::{classes, gap, predicted};
    use touchline_core::cause::Cause;
    use touchline_core::expectation::{Expected, OnAir};
    use touchline_core::labels::ClassId;
    use touchline_core::time::RunId;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(style: Style, write: impl FnOnce(&mut Terminal)) -> String {
        let screen = Screen::default();
        write(&mut Terminal::to(Box::new(screen.clone()), &classes(), style));
        let bytes = screen.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    const PLAIN: Style = Style { colour: false, in_place: false, name_streams: false };

    #[test]
    fn a_second_has_the_expected_text() {
        let text = written(PLAIN, |t| t.published("cam", &predicted(754, "tennis", 0.75)));
        assert_eq!(
            text,
            concat!(
                " 0:12:34  Tennis  ███████████████░░░░░   75 %  rgb (table)       ",
                "rgb 75 % Tennis · flow 75 % Tennis · audio no track  0.6 s late  1 s behind\n"
            )
        );
    }

    #[test]
    fn gaps_and_empty_windows_are_labelled() {
        let mut published = gap(1, GapReason::Overload);
        let text = written(PLAIN, |t| t.published("cam", &published));
        assert!(text.contains("Tennis") && text.contains("gap: machine overloaded"), "{text}");
        published.estimate.seconds = 0;
        let text = written(PLAIN, |t| t.published("cam", &published));
        assert!(text.contains("nothing yet") && !text.contains("Tennis"), "{text}");
    }

    #[test]
    fn something_unexpected_has_a_line_at_its_begin_and_its_end() {
        let mut expected = Expected::default();
        assert!(["tennis", "no-programme"].iter().all(|name| expected.add(name, &classes())));
        let mut second = predicted(70, "soccer", 0.9);
        let event = |end, class| ExpectationEvent {
            end,
            expected: expected.clone(),
            on_air: Some(OnAir::Class(ClassId(class))),
            run: RunId(0),
            index: 70,
            seconds: 60,
        };
        second.watched.events = vec![event(None, 0), event(Some(ExpectationEnd::OnAir), 1)];
        let text = written(PLAIN, |t| t.published("cam", &second));
        assert!(text.starts_with(" 0:01:10  ! expected Tennis or No programme, is Soccer for 60 s\n"), "{text}");
        assert!(text.contains(" 0:01:10  ! Tennis or No programme, as expected\n"), "{text}");
    }

    #[test]
    fn in_place_lines_replace_each_other_below_the_events() {
        let style = Style { in_place: true, ..PLAIN };
        let text = written(style, |t| {
            t.published("cam", &predicted(0, "tennis", 0.9));
            let mut second = predicted(1, "tennis", 0.9);
            second.events = vec![Event {
                kind: EventKind::Onset,
                class: ClassId(1),
                run: RunId(0),
                index: 1,
                probability: 0.9,
                reason: None,
            }];
            t.published("cam", &second);
            t.finish();
        });
        let lines: Vec<&str> = text.split('\n').collect();
        assert_eq!(lines.len(), 3, "{text:?}");
        assert!(lines[0].ends_with("\r\x1b[2K 0:00:01  ▶ Tennis is on"), "{text:?}");
        assert!(lines[1].starts_with(REPLACE) && lines[1].ends_with(WRAP), "{text:?}");
    }

    #[test]
    fn colours_are_used_only_if_enabled() {
        assert_eq!(Style::choose(1, true, false), Style { colour: true, in_place: true, name_streams: false });
        assert_eq!(Style::choose(1, true, true), Style { colour: false, in_place: true, name_streams: false });
        assert_eq!(Style::choose(2, true, false), Style { colour: true, in_place: false, name_streams: true });
        assert_eq!(Style::choose(1, false, false), PLAIN);
        let second = predicted(0, "tennis", 0.9);
        assert!(!written(PLAIN, |t| t.published("cam", &second)).contains('\x1b'));
        let text = written(Style { colour: true, name_streams: true, ..PLAIN }, |t| {
            t.published("cam", &second);
            t.state(
                "cam",
                &StreamState::Failed { kind: Cause::NotFound, cause: "404".into(), advice: "check the URL".into() },
            );
            t.state("cam", &StreamState::Playing);
        });
        assert!(text.contains("\x1b[1mTennis") && text.starts_with("cam  "), "{text:?}");
        assert!(text.ends_with("cam: \x1b[31mfailed: 404; check the URL\x1b[0m\n"), "{text:?}");
    }
}
