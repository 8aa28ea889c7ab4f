//! The names and the language of the source: private words for standard things, and phrases that are not plain English, are refused.
//! Names are checked in `src`. Phrases are also checked in tests, benches, the page, deployed files and documents.
//!
//! The glossary in CONTRIBUTING.md defines the preferred words. Add a row here when a word is replaced.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{files, sources};

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
    ("door", "source"),
    ("doors", "sources"),
    ("Fate", "FrameChoice"),
    ("Fates", "FrameChoices"),
    ("Follower", "PlaylistCursor"),
    ("Foretold", "PendingMark"),
    ("Garbled", "Invalid"),
    ("Hands", "Driver"),
    ("Heard", "ReceivedMessage"),
    ("House", "WallServer"),
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
    ("wish", "requested"),
    ("wholeness", "truncation"),
    ("Why", "the reason, such as DecisionReason"),
];

/// Names that say nothing alone. A type has a qualified name: `GateState`, `Timeline`, `PartialSegment`.
const DENIED_TYPES: &[&str] = &[
    "Chosen", "Found", "Held", "Kept", "Line", "Output", "Part", "Placed", "Seen", "State", "Taken", "Turn", "Wanted",
    "Way",
];

/// Phrases that must not appear in comments, messages, documents and other text (in lower case), and how to write instead.
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
    ("goes on", "continues"),
    ("go on", "continue"),
    ("went on", "continued"),
    ("held up", "delayed"),
    ("holds up", "delays"),
    ("hold up", "delay"),
    ("somebody", "name the person or the program"),
    ("whatever", "name the thing"),
    ("whichever", "name the things"),
    ("has to say", "must contain"),
    ("what comes out", "the output"),
    ("counts for what", "name the thing"),
    ("at rest", "unchanged"),
    ("says why", "gives the reason"),
    ("say why", "give the reason"),
    ("tried for ever", "retried without limit"),
    ("comes by", "runs this, or arrives"),
    ("offline twin", "say what the command does offline"),
    ("mood", "load"),
    ("innocent", "unaffected"),
    ("have the same place", "have the same stream, run and index"),
    ("leads inside", "is internal"),
    ("layer of your own", "layer"),
    ("shall", "must, or the plain present"),
    ("when it says", "messages"),
    ("alert rings", "alert fires"),
    ("knows the recipients", "sends notifications"),
    ("takes away", "removes"),
    ("take streams away", "remove streams"),
    ("held to", "required to meet"),
    ("stands still", "does not advance, is frozen, or stopped"),
    ("stand still", "not advance, be frozen, or stop"),
    ("are no programme", "count as no programme"),
    ("is no name of", "is not the name of"),
    ("of the house", "of the site"),
    ("what stays free", "the margin"),
    ("not here", "not found, or not installed"),
    ("ended well", "cleanly"),
    ("as the template says", "from the template"),
    ("does not tell", "does not show it"),
    ("became of", "the result"),
    ("where it goes", "the output, or the destination"),
    ("leave out what", "exclude, with the name of the thing"),
    ("everybody who", "every client, or every user"),
    ("is no freeze", "is not reported as freeze"),
];

/// File names whose text is checked for phrases, by extension, besides Rust's.
const TEXTS: &[&str] = &[
    "conf",
    "css",
    "gst",
    "html",
    "js",
    "json",
    "logrotate",
    "md",
    "py",
    "service",
    "sh",
    "toml",
    "ts",
    "yaml",
    "yml",
];

/// The code of a line, without the contents of strings and comments. Raw strings over several lines count as code.
pub fn code(line: &str) -> String {
    let mut code = String::new();
    let mut chars = line.chars().peekable();
    let mut is_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if is_string => drop(chars.next()),
            '"' => {
                is_string = !is_string;
                code.push(' ');
            }
            _ if is_string => {}
            // The quotation mark as a character literal.
            '\'' if chars.peek() == Some(&'"') => drop((chars.next(), chars.next())),
            '/' if chars.peek() == Some(&'/') => break,
            _ => code.push(c),
        }
    }
    code
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The faults of one line of Rust.
fn faults(line: &str) -> Vec<String> {
    let code = code(line);
    let mut found = phrases(line);
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
    found
}

/// The denied phrases of one line. Code is included: a raw string over several lines cannot be distinguished from it.
fn phrases(line: &str) -> Vec<String> {
    let text = line.to_lowercase();
    let is_in = |phrase: &str| text.match_indices(phrase).any(|(at, _)| is_word(&text, at, phrase.len()));
    let denied = DENIED_PHRASES.iter().filter(|(phrase, _)| is_in(phrase));
    denied.map(|(phrase, preferred)| format!("the phrase \"{phrase}\"; write: {preferred}")).collect()
}

/// Whether `length` bytes at `at` are not parts of longer words.
fn is_word(text: &str, at: usize, length: usize) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    !is_letter(text[..at].chars().next_back()) && !is_letter(text[at + length..].chars().next())
}

/// Fails with every fault that `check` finds in a line of `paths`.
fn assert_none(paths: &[PathBuf], check: impl Fn(&str) -> Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for path in paths {
        let place = path.strip_prefix(root).unwrap();
        let text = fs::read_to_string(path).unwrap();
        for (number, line) in text.lines().enumerate() {
            for fault in check(line) {
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
fn names_and_phrases_are_those_of_the_glossary() {
    assert_none(&sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")), faults);
}

#[test]
fn phrases_are_plain_in_tests_documents_and_deployed_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["tests", "benches"] {
        paths.extend(sources(&root.join(folder)));
    }
    for folder in ["src", "tests", "benches", "deploy", "pipelines", "weights"] {
        paths.extend(files(&root.join(folder), TEXTS));
    }
    for document in ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md"] {
        paths.push(root.join(document));
    }
    // This file has the phrases.
    paths.retain(|path| *path != root.join(file!()));
    for document in ["README.md", "src/serve/http/page/wall.html", "tests/layout/main.rs", "deploy/OPERATING.md"] {
        assert!(paths.contains(&root.join(document)), "{document} is checked");
    }
    assert_none(&paths, phrases);
}

/// Types that may have the same name. A pair may be two sides of one thing, such as an op and its CUDA form.
const SAME_NAME_MAX: usize = 2;

/// The names of the types that a file defines, without those of its unit tests.
fn types(text: &str) -> Vec<String> {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    for line in product.lines() {
        let code = code(line);
        let mut words = words(&code).skip_while(|word| ["pub", "crate", "super", "in"].contains(word));
        if words.next().is_some_and(|word| ["struct", "enum", "trait"].contains(&word)) {
            found.extend(words.next().map(str::to_owned));
        }
    }
    found
}

#[test]
fn a_name_has_one_meaning() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        let place = path.strip_prefix(&src).unwrap().display().to_string();
        let is_product = !["tests", "testing.rs", "examples/"].iter().any(|part| place.contains(part));
        for name in types(&fs::read_to_string(&path).unwrap()).into_iter().filter(|_| is_product) {
            places.entry(name).or_default().push(place.clone());
        }
    }
    assert!(places.len() > 500, "the definitions are found");
    let many: Vec<_> = places.iter().filter(|(_, places)| places.len() > SAME_NAME_MAX).collect();
    assert!(many.is_empty(), "these names have several meanings; qualify them: {many:#?}");
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
    assert_eq!(types("pub(super) struct Pool<T>(T);\n#[cfg(test)]\nmod tests {\n    struct Fixture;\n}"), ["Pool"]);
    assert_eq!(phrases("| Whoever | a table of a document |").len(), 1);
    assert_eq!(phrases("a raw string of several lines: the time line").len(), 1);
}
