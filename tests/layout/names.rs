//! The names and the language of the source: private words for standard things, and phrases that are not plain English, are refused.
//!
//! The glossary in CONTRIBUTING.md defines the preferred words. Add a row here when a word is replaced.

use std::fs;
use std::path::Path;

use crate::sources;

/// Identifiers that must not appear in code, and the preferred word. A name of several words is denied as a whole.
const DENIED_NAMES: &[(&str, &str)] = &[
    ("Ask", "Command or Request"),
    ("asks", "requests"),
    ("Beat", "Heartbeat"),
    ("Brain", "GpuWorker"),
    ("Claims", "SourceClock"),
    ("Complaints", "WarningLimiter"),
    ("Counted", "CounterValues"),
    ("Course", "PlaylistCursor"),
    ("Dialogue", "RtspAuth"),
    ("Died", "ExitReport"),
    ("Ear", "TrackActivity"),
    ("Fate", "FrameChoice"),
    ("Fates", "FrameChoices"),
    ("Follower", "PlaylistCursor"),
    ("Foretold", "PendingMark"),
    ("Garbled", "Invalid"),
    ("Hands", "Driver"),
    ("Heard", "ReceivedMessage"),
    ("Lane", "PlaylistPlayer"),
    ("own_processors", "background_pool"),
    ("Passage", "LoopbackProxy"),
    ("Patience", "LagLimits"),
    ("Patient", "TimedReader"),
    ("PlanThinner", "PlanSelector"),
    ("Remembered", "StoredPosition"),
    ("Said", "LogLimiter"),
    ("Say", "WorkerMessage"),
    ("Shown", "CredentialJar"),
    ("Speaker", "CommandSender"),
    ("Spoiled", "DamagedPictures"),
    ("tend", "element_setup"),
    ("Thin", "FrameSelector"),
    ("Thinned", "Unconverted"),
    ("Thinning", "FrameSelection"),
    ("thinning", "selection"),
    ("Tie", "TimelineAnchor"),
    ("Ties", "TimelineAnchors"),
    ("Told", "Reporter"),
    ("warden", "stream manager (manager)"),
    ("Warden", "StreamManager"),
    ("What", "the kind or action, such as AdAction"),
    ("wholeness", "truncation"),
    ("Why", "the reason, such as DecisionReason"),
];

/// Names that say nothing alone. A type has a qualified name: `GateState`, `Timeline`, `PartialSegment`.
const DENIED_TYPES: &[&str] = &[
    "Chosen", "Found", "Held", "Kept", "Line", "Output", "Part", "Placed", "Seen", "State", "Taken", "Turn", "Wanted",
    "Way",
];

/// Phrases that must not appear in comments, messages and other strings (in lower case), and how to write instead.
const DENIED_PHRASES: &[(&str, &str)] = &[
    ("whoever", "name the thing that acts"),
    ("whatever comes", "name the thing"),
    ("is told", "receives, is passed, or is reported"),
    ("was told", "received, or was reported"),
    ("are told", "receive, or are reported"),
    ("were told", "received, or were reported"),
    ("what was left", "name the remaining thing"),
    ("has said", "has reported"),
    ("is said", "is reported, is stated, or is output"),
    ("not said", "not stated, or not logged"),
    ("never said", "never reported"),
    ("goes on by itself", "continues automatically"),
    ("goes by the", "uses, or follows"),
    ("the line of time", "the timeline"),
    ("time line", "timeline"),
    ("time lines", "timelines"),
    ("what is left is", "the rest is"),
    ("speaks of", "describes"),
    ("hear of", "receive"),
    ("is no number", "is not a number"),
    ("are no numbers", "are NaN or infinite"),
    ("is no media", "is not media"),
    ("as many as may be", "the limit"),
    ("made anew", "created again"),
    ("begins anew", "starts over, or wraps"),
    ("begin anew", "start over, or wrap"),
    ("left to itself", "abandoned"),
    ("holds to the", "follows the"),
    ("what cannot be", "invalid"),
    ("comes to its end", "ends"),
    ("came to its end", "ended"),
];

/// Splits a line into code and text: the contents of strings and comments. Raw strings over several lines count as code.
fn split(line: &str) -> (String, String) {
    let (mut code, mut text) = (String::new(), String::new());
    let mut chars = line.chars().peekable();
    let mut is_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if is_string => drop(chars.next()),
            '"' => {
                is_string = !is_string;
                code.push(' ');
                text.push(' ');
            }
            _ if is_string => text.push(c),
            // The quotation mark as a character literal.
            '\'' if chars.peek() == Some(&'"') => drop((chars.next(), chars.next())),
            '/' if chars.peek() == Some(&'/') => {
                text.push(' ');
                text.extend(chars.by_ref());
            }
            _ => code.push(c),
        }
    }
    (code, text)
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The faults of one line.
fn faults(line: &str) -> Vec<String> {
    let (code, text) = split(line);
    let mut found = Vec::new();
    let mut last = "";
    for word in words(&code) {
        if let Some((name, preferred)) = DENIED_NAMES.iter().find(|(name, _)| *name == word) {
            found.push(format!("the name `{name}`; write {preferred}"));
        }
        if ["struct", "enum", "trait"].contains(&last) && DENIED_TYPES.contains(&word) {
            found.push(format!("the type `{word}` says nothing alone; qualify its name"));
        }
        last = word;
    }
    let text = text.to_lowercase();
    for (phrase, preferred) in DENIED_PHRASES {
        if text.match_indices(phrase).any(|(at, _)| is_word(&text, at, phrase.len())) {
            found.push(format!("the phrase \"{phrase}\"; write: {preferred}"));
        }
    }
    found
}

/// Whether `length` bytes at `at` are not parts of longer words.
fn is_word(text: &str, at: usize, length: usize) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    !is_letter(text[..at].chars().next_back()) && !is_letter(text[at + length..].chars().next())
}

#[test]
fn names_and_phrases_are_those_of_the_glossary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for path in sources(&root.join("src")) {
        let place = path.strip_prefix(root).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            for fault in faults(line) {
                wrong.push(format!("{}:{}: {fault}", place.display(), number + 1));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} denied words, see the glossary in CONTRIBUTING.md:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn faults_are_found_in_code_and_text() {
    assert_eq!(faults("struct Shown(u8);").len(), 1);
    assert_eq!(faults("enum State { A }").len(), 1);
    assert_eq!(faults("let x = gst::State::Null; // the state").len(), 0);
    assert_eq!(faults("/// Whoever waits is told.").len(), 2);
    assert_eq!(faults("let warden = \"Shown\"; // Shown").len(), 1);
    assert_eq!(faults("warn!(\"the \\\"time line\\\"\");").len(), 1);
    assert_eq!(faults("let quote = '\"'; let thinning = 1;").len(), 1);
    assert_eq!(faults("// this untold story").len(), 0);
}
