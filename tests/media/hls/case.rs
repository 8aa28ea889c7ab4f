//! A test case: the answers of the server and the expected outcome.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use touchline_core::cause::Cause;
use touchline_media::supervise::SourceState;

use super::list::List;
use super::material::{self, Mark};
use super::play::{Outcome, PlayOptions, play};
use super::server::{Answer, Request, Serve, Server};

type Any = Arc<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

/// The content of a server. Paths that the test does not define come from the material.
#[derive(Clone, Default)]
pub struct Site {
    routes: BTreeMap<String, Serve>,
    any: Option<Any>,
}

impl Site {
    pub fn new() -> Self {
        Self::default()
    }

    /// A site with this playlist at `x.m3u8`.
    pub fn of(list: &List) -> Self {
        Self::new().text("x.m3u8", list.text())
    }

    pub fn text(self, path: &str, text: impl Into<String>) -> Self {
        let text = text.into();
        self.on(path, move |_| Answer::list(text.clone()))
    }

    pub fn on(mut self, path: &str, serve: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        self.routes.insert(path.to_owned(), Arc::new(serve));
        self
    }

    /// Like [`Site::on`], with a constant answer.
    pub fn answers(self, path: &str, answer: Answer) -> Self {
        self.on(path, move |_| answer.clone())
    }

    /// Serves the other paths. [`None`] falls back to the material.
    pub fn any(mut self, serve: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        self.any = Some(Arc::new(serve));
        self
    }

    pub fn answer(&self, request: &Request) -> Answer {
        if let Some(serve) = self.routes.get(request.path()) {
            return serve(request);
        }
        self.any.as_ref().and_then(|any| any(request)).unwrap_or_else(|| from_material(request.path()))
    }

    pub fn serve(self) -> Serve {
        Arc::new(move |request| self.answer(request))
    }
}

/// A file of the material, with the usual content type.
pub fn from_material(path: &str) -> Answer {
    let Some(bytes) = material::files().get(path) else { return Answer::status(404) };
    let kind = match path.rsplit('.').next().unwrap_or_default() {
        "m3u8" => "application/vnd.apple.mpegurl",
        "ts" => "video/mp2t",
        "mp4" | "m4s" => "video/mp4",
        "aac" => "audio/aac",
        "mp3" => "audio/mpeg",
        "ac3" => "audio/ac3",
        _ => "application/octet-stream",
    };
    Answer::bytes(bytes.clone()).with("Content-Type", kind)
}

/// The expected outcome of a case.
#[derive(Clone, Debug)]
pub enum Expect {
    /// A recording that ends after exactly these seconds ([`None`] is a gap) in this number of runs.
    Shows { seconds: Vec<Option<Mark>>, runs: Option<usize> },
    /// A channel that shows the rest of these seconds from its first one, which is at index `join_by` or earlier.
    Follows { seconds: Vec<Option<Mark>>, join_by: usize, runs: Option<usize> },
    /// A recording that ends with these numbers of decided seconds and of all seconds.
    Counts { decided: RangeInclusive<usize>, elapsed: RangeInclusive<usize>, runs: Option<usize> },
    /// A failure with one of these causes (any cause if empty) and one of these words in its message, after this number of decided
    /// seconds.
    Fails { causes: Vec<Cause>, words: Vec<&'static str>, decided: RangeInclusive<usize> },
    /// Only the checks of the case apply.
    Anything,
    /// Any of these outcomes.
    OneOf(Vec<Expect>),
}

/// These seconds of a programme.
pub fn secs(programme: u8, seconds: impl IntoIterator<Item = u8>) -> Vec<Option<Mark>> {
    seconds.into_iter().map(|second| Some(Mark(programme, second))).collect()
}

pub fn gap(seconds: usize) -> Vec<Option<Mark>> {
    vec![None; seconds]
}

/// The concatenation of `parts`.
pub fn all(parts: impl IntoIterator<Item = Vec<Option<Mark>>>) -> Vec<Option<Mark>> {
    parts.into_iter().flatten().collect()
}

/// A recording of these seconds in one run.
pub fn shows(seconds: Vec<Option<Mark>>) -> Expect {
    in_runs(1, seconds)
}

pub fn in_runs(runs: usize, seconds: Vec<Option<Mark>>) -> Expect {
    Expect::Shows { seconds, runs: Some(runs) }
}

/// The whole base programme.
pub fn whole() -> Expect {
    shows(secs(material::BASE, 0..12))
}

pub fn counts(decided: RangeInclusive<usize>, elapsed: RangeInclusive<usize>) -> Expect {
    Expect::Counts { decided, elapsed, runs: None }
}

/// Fails before any second with one of these words in the message.
pub fn fails(words: &[&'static str]) -> Expect {
    fails_with_cause(&[], words)
}

/// Fails after this number of seconds.
pub fn fails_after(decided: RangeInclusive<usize>, words: &[&'static str]) -> Expect {
    Expect::Fails { causes: Vec::new(), words: words.to_vec(), decided }
}

/// Fails before any second with one of these causes and one of these words in the message.
pub fn fails_with_cause(causes: &[Cause], words: &[&'static str]) -> Expect {
    Expect::Fails { causes: causes.to_vec(), words: words.to_vec(), decided: 0..=0 }
}

pub fn damaged() -> Expect {
    fails(&["damaged playlist"])
}

/// Plays or fails, but neither hangs nor ends the process.
pub fn any_outcome() -> Expect {
    Expect::Anything
}

pub fn or(a: Expect, b: Expect) -> Expect {
    Expect::OneOf(vec![a, b])
}

impl Expect {
    fn check(&self, outcome: &Outcome) -> Result<(), String> {
        match self {
            Expect::Shows { seconds, runs } => {
                check_end(outcome)?;
                check_seconds(seconds, &outcome.marks())?;
                check_runs(*runs, outcome)
            }
            Expect::Follows { seconds, join_by, runs } => {
                let marks = outcome.marks();
                let first = marks.first().copied().flatten().ok_or("its first second has no mark")?;
                let joined = seconds.iter().position(|s| *s == Some(first));
                let joined = joined.ok_or_else(|| format!("{first:?} is not a second of the channel"))?;
                if joined > *join_by {
                    return Err(format!("joined at {first:?}, second {joined}, after {join_by}"));
                }
                check_seconds(&seconds[joined..], &marks)?;
                check_runs(*runs, outcome)
            }
            Expect::Counts { decided, elapsed, runs } => {
                check_end(outcome)?;
                let (count, all) = (outcome.decided(), outcome.seconds.len());
                if !decided.contains(&count) || !elapsed.contains(&all) {
                    return Err(format!("{count} of {all} decided instead of {decided:?} of {elapsed:?}"));
                }
                check_runs(*runs, outcome)
            }
            Expect::Fails { causes, words, decided } => {
                let (cause, message) = outcome.failures().into_iter().next().ok_or("it does not fail")?;
                if !causes.is_empty() && !causes.contains(&cause) {
                    return Err(format!("{cause:?} ({message}) instead of {causes:?}"));
                }
                if !words.iter().any(|word| message.to_lowercase().contains(&word.to_lowercase())) {
                    return Err(format!("\"{message}\" contains none of {words:?}"));
                }
                match outcome.decided() {
                    count if decided.contains(&count) => Ok(()),
                    count => Err(format!("{count} seconds decided before \"{message}\" instead of {decided:?}")),
                }
            }
            Expect::Anything => Ok(()),
            Expect::OneOf(alternatives) => {
                let results: Vec<_> = alternatives.iter().map(|expect| expect.check(outcome)).collect();
                let mut failed = Vec::new();
                for result in results {
                    match result {
                        Ok(()) => return Ok(()),
                        Err(e) => failed.push(e),
                    }
                }
                Err(failed.join("; and "))
            }
        }
    }
}

fn check_end(outcome: &Outcome) -> Result<(), String> {
    match outcome.failures().first() {
        Some((kind, message)) => Err(format!("failed: {kind:?}, {message}")),
        None if outcome.states.last() == Some(&SourceState::Ended) => Ok(()),
        None => Err(format!("did not end: {:?}", outcome.states.last())),
    }
}

fn check_runs(wanted: Option<usize>, outcome: &Outcome) -> Result<(), String> {
    match wanted {
        Some(runs) if runs != outcome.runs.len() => {
            Err(format!("{} runs instead of {runs}: {:?}", outcome.runs.len(), outcome.runs))
        }
        _ => Ok(()),
    }
}

fn check_seconds(wanted: &[Option<Mark>], got: &[Option<Mark>]) -> Result<(), String> {
    if wanted == got {
        return Ok(());
    }
    let at = wanted.iter().zip(got).position(|(a, b)| a != b).unwrap_or(wanted.len().min(got.len()));
    let from = at.saturating_sub(1);
    let piece = |list: &[Option<Mark>]| {
        let excerpt = &list[from.min(list.len())..(at + 8).min(list.len())];
        let words = excerpt.iter().map(|mark| mark.map_or("gap".to_owned(), |mark| format!("{mark:?}")));
        words.collect::<Vec<_>>().join(" ")
    };
    Err(format!(
        "{} seconds instead of {}, from second {from} on: {} instead of {}",
        got.len(),
        wanted.len(),
        piece(got),
        piece(wanted)
    ))
}

type Check = Box<dyn Fn(&Outcome, &[Request]) -> Result<(), String> + Send + Sync>;

/// A test case.
pub struct Case {
    pub name: String,
    /// The path to open without the leading slash, or a whole URL.
    pub path: String,
    pub serve: Serve,
    pub options: PlayOptions,
    pub expect: Expect,
    /// Whether decided seconds may lack sound.
    pub mute: bool,
    /// Further checks of the outcome and the requests to the server.
    pub checks: Vec<Check>,
    /// The login in the URL, before the host.
    pub login: &'static str,
    /// Printed when the case fails.
    pub about: String,
}

impl Case {
    pub fn new(name: impl Into<String>, site: Site, expect: Expect) -> Self {
        Self {
            name: name.into(),
            path: "x.m3u8".into(),
            serve: site.serve(),
            options: PlayOptions::recording(),
            expect,
            mute: false,
            checks: Vec::new(),
            login: "",
            about: String::new(),
        }
    }

    /// Opens another path.
    pub fn at(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    pub fn options(mut self, options: PlayOptions) -> Self {
        self.options = options;
        self
    }

    pub fn login(mut self, login: &'static str) -> Self {
        self.login = login;
        self
    }

    /// Prints `about` if the case fails.
    pub fn explained(mut self, about: String) -> Self {
        self.about = about;
        self
    }

    pub fn mute(mut self) -> Self {
        self.mute = true;
        self
    }

    pub fn check(mut self, check: impl Fn(&Outcome, &[Request]) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// Checks that no request's target contains `word`.
    pub fn never_requests(self, word: &'static str) -> Self {
        self.check(move |_, requests| match requests.iter().find(|r| r.target.contains(word)) {
            Some(request) => Err(format!("{} was requested", request.target)),
            None => Ok(()),
        })
    }

    fn run(self) -> Result<(), String> {
        let server = Server::start(self.serve);
        let url = match self.path.starts_with("http") {
            true => self.path.clone(),
            false => server.url(&self.path),
        };
        let about = self.about;
        let outcome = play(&url.replacen("://", &format!("://{}", self.login), 1), self.options);
        let requests = server.requests();
        let verdict = (|| {
            if outcome.timed_out {
                return Err("timed out".to_owned());
            }
            outcome.order()?;
            self.expect.check(&outcome)?;
            let silent = outcome.seconds.iter().find(|s| !s.is_gap && !s.has_sound);
            if let (false, Some(second)) = (self.mute, silent) {
                return Err(format!("no sound in {second:?}"));
            }
            self.checks.iter().try_for_each(|check| check(&outcome, &requests))
        })();
        verdict.map_err(|e| {
            let targets: Vec<&str> = requests.iter().map(|r| r.target.as_str()).collect();
            let targets = &targets[targets.len().saturating_sub(12)..];
            format!(
                "{e}\n    states {:?}\n    runs {:?}\n    last requests {targets:?}\n{about}",
                outcome.states, outcome.runs
            )
        })
    }
}

/// The number of cases that all tests of this binary play at the same time.
const AT_ONCE: usize = 6;

static PLAYING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Plays all cases, several at a time, and reports every failure. `TOUCHLINE_HLS_CASE=NAME` plays only cases whose names contain it.
///
/// # Panics
/// If any case does not have its expected outcome.
pub fn run(cases: Vec<Case>) {
    let only = std::env::var("TOUCHLINE_HLS_CASE").ok();
    let cases: Vec<Case> =
        cases.into_iter().filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only.as_str()))).collect();
    let (queue, wrong) = (Mutex::new(cases), Mutex::new(Vec::new()));
    // The material is made before the time limits of the cases start.
    material::files();
    queue.lock().reverse();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().pop() else { return };
                    let (playing, freed) = &PLAYING;
                    let mut count = playing.lock();
                    freed.wait_while(&mut count, |playing| *playing >= AT_ONCE);
                    *count += 1;
                    drop(count);
                    let (name, began) = (case.name.clone(), std::time::Instant::now());
                    eprintln!("{name} starts");
                    let result = case.run();
                    *playing.lock() -= 1;
                    freed.notify_one();
                    eprintln!(
                        "{name}: {} ({:.1} s)",
                        result.as_ref().map_or("WRONG", |()| "as expected"),
                        began.elapsed().as_secs_f64()
                    );
                    if let Err(e) = result {
                        wrong.lock().push(format!("{name}: {e}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.lock();
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
