//! One row of a table: how the server answers, and the expected outcome.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex};

use touchline_core::cause::Cause;
use touchline_media::supervise::SourceState;

use super::list::List;
use super::material::{self, Mark};
use super::play::{How, Outcome, play};
use super::server::{Answer, Request, Serve, Server, lock};

type Any = Arc<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

/// The content of a server: some paths come from the test, all others from the material.
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

    /// As [`Site::on`], always the same.
    pub fn answers(self, path: &str, answer: Answer) -> Self {
        self.on(path, move |_| answer.clone())
    }

    /// Serves the paths that have no entry of their own.
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

/// A file of the material, with the type that web servers give its kind.
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
    /// Exactly these seconds in this order, gaps being nothing, and so many runs; a recording, which ends.
    Shows { seconds: Vec<Option<Mark>>, runs: Option<usize> },
    /// The end of these seconds, from one of the first `join_by` on, whole; a channel.
    Follows { seconds: Vec<Option<Mark>>, join_by: usize, runs: Option<usize> },
    /// So many decided and so many decided or gaps; a recording, which ends.
    Counts { decided: RangeInclusive<usize>, elapsed: RangeInclusive<usize>, runs: Option<usize> },
    /// A failure of one of these kinds (any if there are none) with one of these words in its message, after so many seconds.
    Says { kinds: Vec<Cause>, words: Vec<&'static str>, decided: RangeInclusive<usize> },
    /// Only the checks of the case apply.
    Anything,
    /// One of these.
    OneOf(Vec<Expect>),
}

/// Seconds of a programme.
pub fn secs(programme: u8, seconds: impl IntoIterator<Item = u8>) -> Vec<Option<Mark>> {
    seconds.into_iter().map(|second| Some(Mark(programme, second))).collect()
}

pub fn gap(seconds: usize) -> Vec<Option<Mark>> {
    vec![None; seconds]
}

/// One after the other.
pub fn all(parts: impl IntoIterator<Item = Vec<Option<Mark>>>) -> Vec<Option<Mark>> {
    parts.into_iter().flatten().collect()
}

/// These seconds in one run.
pub fn shows(seconds: Vec<Option<Mark>>) -> Expect {
    in_runs(1, seconds)
}

pub fn in_runs(runs: usize, seconds: Vec<Option<Mark>>) -> Expect {
    Expect::Shows { seconds, runs: Some(runs) }
}

/// The base programme whole.
pub fn whole() -> Expect {
    shows(secs(material::BASE, 0..12))
}

pub fn counts(decided: RangeInclusive<usize>, elapsed: RangeInclusive<usize>) -> Expect {
    Expect::Counts { decided, elapsed, runs: None }
}

pub fn says(words: &[&'static str]) -> Expect {
    fails(&[], words)
}

/// Fails after so many seconds.
pub fn stops(decided: RangeInclusive<usize>, words: &[&'static str]) -> Expect {
    Expect::Says { kinds: Vec::new(), words: words.to_vec(), decided }
}

pub fn fails(kinds: &[Cause], words: &[&'static str]) -> Expect {
    Expect::Says { kinds: kinds.to_vec(), words: words.to_vec(), decided: 0..=0 }
}

pub fn damaged() -> Expect {
    says(&["damaged playlist"])
}

/// Plays or fails: it neither hangs nor ends the process.
pub fn lives() -> Expect {
    Expect::Anything
}

pub fn or(a: Expect, b: Expect) -> Expect {
    Expect::OneOf(vec![a, b])
}

impl Expect {
    fn holds(&self, outcome: &Outcome) -> Result<(), String> {
        match self {
            Expect::Shows { seconds, runs } => {
                ended(outcome)?;
                same(seconds, &outcome.marks())?;
                right_runs(*runs, outcome)
            }
            Expect::Follows { seconds, join_by, runs } => {
                let marks = outcome.marks();
                let first = marks.first().copied().flatten().ok_or("its first second says nothing")?;
                let joined = seconds.iter().position(|s| *s == Some(first));
                let joined = joined.ok_or_else(|| format!("{first:?} is no second of the channel"))?;
                if joined > *join_by {
                    return Err(format!("joined at {first:?}, second {joined} instead of {join_by} at most"));
                }
                same(&seconds[joined..], &marks)?;
                right_runs(*runs, outcome)
            }
            Expect::Counts { decided, elapsed, runs } => {
                ended(outcome)?;
                let (said, all) = (outcome.decided(), outcome.seconds.len());
                if !decided.contains(&said) || !elapsed.contains(&all) {
                    return Err(format!("{said} decided of {all}; wanted {decided:?} of {elapsed:?}"));
                }
                right_runs(*runs, outcome)
            }
            Expect::Says { kinds, words, decided } => {
                let (kind, message) = outcome.failures().into_iter().next().ok_or("it does not fail")?;
                if !kinds.is_empty() && !kinds.contains(&kind) {
                    return Err(format!("{kind:?} ({message}) instead of {kinds:?}"));
                }
                if !words.iter().any(|word| message.to_lowercase().contains(&word.to_lowercase())) {
                    return Err(format!("\"{message}\" has none of {words:?} in it"));
                }
                match outcome.decided() {
                    said if decided.contains(&said) => Ok(()),
                    said => Err(format!("{said} seconds decided before \"{message}\", wanted {decided:?}")),
                }
            }
            Expect::Anything => Ok(()),
            Expect::OneOf(several) => {
                let tried: Vec<_> = several.iter().map(|expect| expect.holds(outcome)).collect();
                let mut failed = Vec::new();
                for tried in tried {
                    match tried {
                        Ok(()) => return Ok(()),
                        Err(e) => failed.push(e),
                    }
                }
                Err(failed.join("; and "))
            }
        }
    }
}

fn ended(outcome: &Outcome) -> Result<(), String> {
    match outcome.failures().first() {
        Some((kind, message)) => Err(format!("failed: {kind:?}, {message}")),
        None if outcome.states.last() == Some(&SourceState::Ended) => Ok(()),
        None => Err(format!("did not end: {:?}", outcome.states.last())),
    }
}

fn right_runs(wanted: Option<usize>, outcome: &Outcome) -> Result<(), String> {
    match wanted {
        Some(runs) if runs != outcome.runs.len() => {
            Err(format!("{} runs instead of {runs}: {:?}", outcome.runs.len(), outcome.runs))
        }
        _ => Ok(()),
    }
}

fn same(wanted: &[Option<Mark>], got: &[Option<Mark>]) -> Result<(), String> {
    if wanted == got {
        return Ok(());
    }
    let at = wanted.iter().zip(got).position(|(a, b)| a != b).unwrap_or(wanted.len().min(got.len()));
    let from = at.saturating_sub(1);
    let piece = |list: &[Option<Mark>]| {
        let shown = &list[from.min(list.len())..(at + 8).min(list.len())];
        let words = shown.iter().map(|mark| mark.map_or("gap".to_owned(), |mark| format!("{mark:?}")));
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

/// One row.
pub struct Case {
    pub name: String,
    /// The path to open, without the leading slash; or a whole address.
    pub path: String,
    pub serve: Serve,
    pub how: How,
    pub expect: Expect,
    /// Seconds that are decided need no sound.
    pub mute: bool,
    /// Further checks, with the requests to the server.
    pub checks: Vec<Check>,
    /// Written before the host in the address.
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
            how: How::recording(),
            expect,
            mute: false,
            checks: Vec::new(),
            login: "",
            about: String::new(),
        }
    }

    /// At another path.
    pub fn at(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    pub fn how(mut self, how: How) -> Self {
        self.how = how;
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

    /// Nothing whose target has `word` in it is ever asked for.
    pub fn never(self, word: &'static str) -> Self {
        self.check(move |_, requests| match requests.iter().find(|r| r.target.contains(word)) {
            Some(request) => Err(format!("{} was asked for", request.target)),
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
        let outcome = play(&url.replacen("://", &format!("://{}", self.login), 1), self.how);
        let requests = server.requests();
        let verdict = (|| {
            if outcome.timed_out {
                return Err("not over in time".to_owned());
            }
            outcome.order()?;
            self.expect.holds(&outcome)?;
            let silent = outcome.seconds.iter().find(|s| !s.is_gap && !s.has_sound);
            if let (false, Some(second)) = (self.mute, silent) {
                return Err(format!("no sound in {second:?}"));
            }
            self.checks.iter().try_for_each(|check| check(&outcome, &requests))
        })();
        verdict.map_err(|e| {
            let asked: Vec<&str> = requests.iter().map(|r| r.target.as_str()).collect();
            let asked = &asked[asked.len().saturating_sub(12)..];
            format!(
                "{e}\n    states {:?}\n    runs {:?}\n    last requests {asked:?}\n{about}",
                outcome.states, outcome.runs
            )
        })
    }
}

/// How many cases are played at a time, by all tests of this program together.
const AT_ONCE: usize = 6;

static PLAYING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Plays all cases, several at a time, and reports every failure. `TOUCHLINE_HLS_CASE` plays only those with it in their names.
///
/// # Panics
/// If any case did not come out as expected.
pub fn run(cases: Vec<Case>) {
    let only = std::env::var("TOUCHLINE_HLS_CASE").ok();
    let cases: Vec<Case> =
        cases.into_iter().filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only.as_str()))).collect();
    let (queue, wrong) = (Mutex::new(cases), Mutex::new(Vec::new()));
    // The material is made before anything is timed.
    material::files();
    lock(&queue).reverse();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = lock(&queue).pop() else { return };
                    let (playing, freed) = &PLAYING;
                    let mut count =
                        freed.wait_while(lock(playing), |playing| *playing >= AT_ONCE).expect("no case panics with it");
                    *count += 1;
                    drop(count);
                    let (name, began) = (case.name.clone(), std::time::Instant::now());
                    eprintln!("{name} begins");
                    let result = case.run();
                    *lock(playing) -= 1;
                    freed.notify_one();
                    eprintln!(
                        "{name}: {} ({:.1} s)",
                        result.as_ref().map_or("WRONG", |()| "as expected"),
                        began.elapsed().as_secs_f64()
                    );
                    if let Err(e) = result {
                        lock(&wrong).push(format!("{name}: {e}"));
                    }
                }
            });
        }
    });
    let wrong = lock(&wrong);
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
