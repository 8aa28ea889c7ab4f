//! Corrections, suggestions and learning over HTTP. What learns is a script; `tests/learn/teach.rs` has the
//! whole loop with a real pack.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde_json::{Value, json};

use crate::access::{ADMIN, Answer, JSON, READER, bearer, both_tokens, connect, exchange, request};
use crate::studio::Studio;
use crate::support::{Script, Server, Shot, court};
use crate::wait::until;
use touchline_compute::models::pack::Pack;
use touchline_core::decision::SecondOutcome;
use touchline_core::error::Result;
use touchline_core::labels::ClassId;
use touchline_core::time::RunId;
use touchline_media::gst::clips::ring::Arrived;
use touchline_media::gst::clips::{ClipError, SeenPicture, SeenSecond};
use touchline_serve::config::TeachSettings;
use touchline_serve::control::packs::{AppliedPack, PackControl, PackRequest};
use touchline_serve::http::access::AccessConfig;
use touchline_serve::teach::learn::{LearnSettings, Learner, ShadowSlot};
use touchline_serve::teach::{CorrectionStore, HeldSecond, Memory, PastSecond, PastSeconds, TeachAccess};

/// What `adapt` writes when it is well.
const REPORT: &str = r#"{"classes":[{"class":"soccer","is_new":false,"seconds":40,"sources":1,"held_out_by":"recording","right":{"before":0.25,"after":0.9}}],"channel":{"before":0.25,"after":0.9},"replay":{"before":0.97,"after":0.96},"share":1.0,"written":false}"#;

/// The run of the seconds in memory.
const RUN: u32 = 2;

/// A server with doubtful seconds in memory.
pub struct School {
    pub studio: Studio,
    pub server: Server,
    pub folder: tempfile::TempDir,
    teach: TeachAccess,
    shadows: Arc<Shadows>,
}

/// Counts what is asked of the shadow.
#[derive(Default)]
struct Shadows {
    started: AtomicU32,
    stopped: AtomicU32,
}

impl ShadowSlot for Shadows {
    fn start(&self, dir: &Path) -> Result<()> {
        assert!(dir.join("pack.toml").is_file(), "{}", dir.display());
        self.started.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&self) {
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says that every pack is in use.
fn pack_thread(requests: &Receiver<PackRequest>, control: &PackControl) {
    for PackRequest { path, answer, .. } in requests {
        let path = path.unwrap().display().to_string();
        let applied = AppliedPack {
            pack: path.clone(),
            weights_sha256: "a".into(),
            manifest_sha256: "b".into(),
            path,
            table_only: false,
            unchanged: false,
            took_ms: 1.0,
        };
        control.finished();
        answer.unwrap().send(Ok(applied)).unwrap();
    }
}

fn seen(t: f32) -> SeenSecond {
    let frame = court(t);
    let mut jpeg = Vec::new();
    let picture = image::RgbImage::from_raw(frame.width, frame.height, frame.data.to_vec()).unwrap();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 70).encode_image(&picture).unwrap();
    let picture = SeenPicture { offset_ns: 500_000_000, width: frame.width, height: frame.height, jpeg };
    SeenSecond { pictures: vec![picture], sound: vec![900; 16_000] }
}

impl School {
    /// A server with these permissions. Two packs lie in its root, `adapt` is the script `learns`.
    pub fn open(access: AccessConfig, learns: &str) -> Self {
        Self::open_with(access, learns, None)
    }

    /// As [`School::open`]; seconds that are not in memory come from `past`.
    fn open_with(access: AccessConfig, learns: &str, past: Option<Arc<dyn PastSeconds>>) -> Self {
        let mut studio = Studio::open();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("packs");
        let first = root.join("first");
        std::fs::create_dir_all(&first).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/compact");
        for name in ["pack.toml", "rgb.safetensors", "flow.safetensors", "audio.safetensors"] {
            std::os::unix::fs::symlink(shipped.join(name).canonicalize().unwrap(), first.join(name)).unwrap();
        }
        let program = folder.path().join("touchline");
        std::fs::write(&program, format!("#!/bin/sh\nset -e\n{learns}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();

        let (hub, clock) = (studio.hub.clone(), studio.hub.clock().clone());
        let memory = Arc::new(Memory::new(1 << 30, 86_400, Some(16_000), clock.clone()));
        let settings = TeachSettings {
            dir: folder.path().join("corrections"),
            memory_bytes: 1 << 30,
            memory_s: 86_400,
            max_bytes: 200_000_000,
            keep_s: None,
        };
        let store =
            CorrectionStore::open(settings, hub.classes().clone(), clock.clone(), hub.metrics().clone()).unwrap();
        let store = Arc::new(store.with_past(past));
        let (control, requests) = PackControl::new();
        std::thread::spawn({
            let control = control.clone();
            move || pack_thread(&requests, &control)
        });
        hub.pack_status().set_pack(Arc::new(Pack::open(&first).unwrap()), "first".into());
        let settings = LearnSettings { program, can_learn: true, root: root.canonicalize().unwrap() };
        let learner = Learner::new(settings, store.clone(), control, hub.clone());
        let shadows = Arc::new(Shadows::default());
        learner.connect(shadows.clone());
        hub.set_teaches(true);
        let teach = TeachAccess { memory, store, learner };
        let server = Server::start_with_teach(hub, access, teach.clone());
        // The runs of the afternoon are over.
        studio.script = Script::default();
        (0..RUN).for_each(|_| drop(studio.script.next(Shot::Reconnect, 0)));
        Self { studio, server, folder, teach, shadows }
    }

    /// Decides and holds seconds with these probabilities of tennis.
    pub fn hold(&mut self, probabilities: &[f32]) {
        for probability in probabilities {
            let unix_ns = self.studio.hub.clock().unix_ns();
            let published = self.studio.script.next(Shot::On("tennis", *probability), unix_ns).unwrap();
            if let SecondOutcome::Predicted(second) = &published.outcome {
                let t = (second.index % 37) as f32 / 37.0;
                self.teach.memory.hold(HeldSecond::new("court-1".into(), second, seen(t), 0));
            }
            self.studio.cam.publish(&published);
        }
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let token = token.map(bearer);
        let mut headers = vec![];
        headers.extend(body.map(|_| JSON));
        headers.extend(token.as_ref().map(|token| ("Authorization", token.as_str())));
        let body = body.map(Value::to_string).unwrap_or_default();
        exchange(connect(&self.server), &request(&self.server, method, path, &headers, &body))
    }

    pub fn json(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, None, None);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        serde_json::from_str(answer.body()).unwrap()
    }

    fn corrections(&self) -> PathBuf {
        self.folder.path().join("corrections")
    }
}

const WELL: &str = r#"
while [ $# -gt 0 ]; do
  case $1 in -o) out=$2;; --json) json=$2;; --from) from=$2;; esac
  shift
done
test -s "$from/clips/manifest.csv"
echo "12/40 recordings and stills, 3.0/s, about 9 s left" >&2
mkdir -p "$(dirname "$json")" "$out"
echo 'name = "x"' > "$out/pack.toml"
cat > "$json" <<'END'
REPORT
END
"#;

/// A script that does what `adapt` does when it is well.
pub fn well() -> String {
    WELL.replace("REPORT", REPORT)
}

#[test]
fn corrections_are_made_listed_and_removed_by_those_who_may() {
    let mut school = School::open(both_tokens(), &well());
    school.hold(&[0.9, 0.4, 0.9]);
    let post = |token, body: Value| {
        let answer = school.ask("POST", "/api/v1/streams/court-1/corrections", token, Some(&body));
        (answer.status, serde_json::from_str::<Value>(answer.body()).unwrap_or_default())
    };
    let soccer = json!({"run": RUN, "from": 0, "to": 2, "class": "soccer"});
    assert_eq!(post(None, soccer.clone()).0, 401);
    assert_eq!(post(Some(READER), soccer.clone()).0, 403);
    let (status, made) = post(Some(ADMIN), soccer);
    assert_eq!(
        (status, &made["class"], &made["decision"]["label"]),
        (201, &json!("soccer"), &json!("tennis")),
        "{made}"
    );
    assert_eq!((&made["seconds"], &made["author"]["by"]), (&json!(3), &json!("token")));
    assert_eq!(made["author"]["address"], "127.0.0.1");
    assert!(school.corrections().join("clips").join(made["file"].as_str().unwrap()).is_file());
    for (body, expected, words) in [
        (json!({"run": RUN, "from": 0, "class": "chess"}), 422, "is not a class of the pack"),
        (json!({"run": RUN, "from": 0}), 422, "class is missing"),
        (json!({"run": RUN, "from": 0, "class": "soccer", "answer": "unsure"}), 422, "belongs to the answer class"),
        (json!({"run": RUN, "from": 3, "to": 2, "class": "soccer"}), 422, "is not valid"),
        (json!({"run": RUN, "from": 0, "to": 100_000_000_u64, "class": "soccer"}), 422, "is not valid"),
        (json!({"run": RUN, "from": 0, "clas": "soccer"}), 422, "did you mean class?"),
        (json!({"run": 7, "from": 0, "class": "soccer"}), 404, "not in memory"),
        (json!({"run": RUN, "from": 2, "to": 5, "class": "soccer"}), 409, "belong to the correction"),
    ] {
        let (status, problem) = post(Some(ADMIN), body.clone());
        assert!(status == expected && problem["error"].as_str().unwrap().contains(words), "{body}: {status} {problem}");
    }
    let elsewhere = school.ask(
        "POST",
        "/api/v1/streams/nowhere/corrections",
        Some(ADMIN),
        Some(&json!({"run": RUN, "from": 0, "class": "soccer"})),
    );
    assert!(elsewhere.status == 404 && elsewhere.body().contains("no stream"), "{elsewhere:?}");

    let list = school.ask("GET", "/api/v1/corrections", Some(READER), None);
    let list: Value = serde_json::from_str(list.body()).unwrap();
    assert_eq!(
        (&list["total"], &list["classes"]),
        (&json!(1), &json!([{"class": "soccer", "corrections": 1, "seconds": 3}]))
    );
    let path = format!("/api/v1/corrections/{}", made["id"].as_str().unwrap());
    assert_eq!(school.ask("DELETE", &path, Some(READER), None).status, 403);
    assert_eq!(school.ask("DELETE", &path, Some(ADMIN), None).status, 204);
    assert_eq!(school.ask("DELETE", &path, Some(ADMIN), None).status, 404);
    assert_eq!(school.ask("DELETE", "/api/v1/corrections/..%2f..%2fetc", Some(ADMIN), None).status, 404);
    let journal = std::fs::read_to_string(school.corrections().join("corrections.jsonl")).unwrap();
    let lines: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() == 2 && lines[1]["removed"] == made["id"] && lines[1]["author"]["by"] == "token", "{lines:?}");
}

/// A ring whose decoding does not end unless it is cancelled.
struct EndlessRing {
    began: Sender<()>,
    cancelled: Sender<()>,
}

impl PastSeconds for EndlessRing {
    fn is_recorded(&self, _: &str) -> bool {
        true
    }

    fn decided(&self, _: &str, _: RunId, (from, to): (u64, u64)) -> Vec<PastSecond> {
        let second =
            |index| PastSecond { index, unix_ns: 0, label: ClassId(0), probability: 0.9, arrived: Arrived::Clock(0) };
        (from..=to).map(second).collect()
    }

    fn see(
        &self,
        _: &str,
        _: &[PastSecond],
        is_cancelled: &dyn Fn() -> bool,
    ) -> std::result::Result<BTreeMap<u64, SeenSecond>, ClipError> {
        self.began.send(()).unwrap();
        until("the cancellation", is_cancelled);
        self.cancelled.send(()).unwrap();
        Err(ClipError::NoMedia)
    }
}

#[test]
fn a_client_that_leaves_ends_the_decoding_for_its_correction() {
    let ((began, begun), (cancelled, ended)) = (unbounded(), unbounded());
    let past = Arc::new(EndlessRing { began, cancelled });
    let school = School::open_with(AccessConfig::default(), &well(), Some(past));
    let body = json!({"run": RUN, "from": 100, "to": 102, "class": "soccer"}).to_string();
    let path = "/api/v1/streams/court-1/corrections";
    // The second finds the ring free again.
    for _ in 0..2 {
        let mut client = connect(&school.server);
        client.write_all(request(&school.server, "POST", path, &[JSON], &body).as_bytes()).unwrap();
        begun.recv_timeout(Duration::from_secs(240)).expect("the decoding begins");
        assert!(ended.is_empty());
        drop(client);
        ended.recv_timeout(Duration::from_secs(240)).expect("the decoding is cancelled");
    }
    assert_eq!(school.json("/api/v1/corrections")["total"], 0);
}

#[test]
fn suggestions_are_doubtful_seconds_with_their_pictures() {
    let mut school = School::open(AccessConfig::default(), &well());
    let mut probabilities = [0.97; 40];
    (probabilities[4], probabilities[25]) = (0.3, 0.4);
    school.hold(&probabilities);
    let found = school.json("/api/v1/suggestions?limit=2");
    let of = |found: &Value| -> Vec<u64> {
        found["suggestions"].as_array().unwrap().iter().map(|s| s["index"].as_u64().unwrap()).collect()
    };
    assert_eq!(of(&found), [4, 25], "{found}");
    let first = &found["suggestions"][0];
    assert_eq!((&first["label"], &first["likely"][0]["class"]), (&json!("tennis"), &json!("tennis")), "{first}");
    assert_eq!(first["likely"].as_array().unwrap().len(), 9);
    assert_eq!(school.json("/api/v1/suggestions?stream=other"), json!({"suggestions": []}));
    assert_eq!(school.ask("GET", "/api/v1/suggestions?limit=0", None, None).status, 422);
    let picture = crate::api::get(&school.server, "/api/v1/streams/court-1/seconds/2/4/picture");
    assert_eq!((picture.status, picture.header("content-type")), (200, "image/jpeg"));
    assert_eq!(image::load_from_memory(&picture.body).unwrap().width(), 768);
    for path in [
        "/api/v1/streams/court-1/seconds/2/99/picture",
        "/api/v1/streams/x/seconds/2/4",
        "/api/v1/streams/court-1/seconds/1/4",
    ] {
        assert_eq!(school.ask("GET", path, None, None).status, 404, "{path}");
    }
    let body = json!({"run": RUN, "from": 7, "answer": "unsure"});
    assert_eq!(school.ask("POST", "/api/v1/streams/court-1/corrections", None, Some(&body)).status, 201);
    let rest = of(&school.json("/api/v1/suggestions"));
    assert!(rest[0] == 25 && rest.iter().all(|index| *index > 9), "its block is answered: {rest:?}");

    let none = Server::start(school.studio.hub.clone());
    for path in ["/api/v1/suggestions", "/api/v1/corrections", "/api/v1/learn"] {
        let answer = crate::api::get(&none, path);
        assert!(answer.status == 404 && answer.text().contains("--teach-dir"), "{path}: {}", answer.text());
    }
}

/// Waits for a stage of learning, and returns the state.
fn stage(school: &School, stage: &str) -> Value {
    until(stage, || school.json("/api/v1/learn")["stage"] == stage);
    school.json("/api/v1/learn")
}

fn correct_one(school: &School) {
    let body = json!({"run": RUN, "from": 0, "class": "soccer"});
    assert_eq!(school.ask("POST", "/api/v1/streams/court-1/corrections", None, Some(&body)).status, 201);
}

#[test]
fn a_pack_learns_is_compared_swapped_and_rolled_back() {
    let mut school = School::open(AccessConfig::default(), &well());
    school.hold(&[0.4]);
    let act = |method: &str, path: &str| school.ask(method, path, None, None);
    let nothing = act("POST", "/api/v1/learn");
    assert!(nothing.status == 422 && nothing.body().contains("no corrections"), "{nothing:?}");
    assert_eq!(act("POST", "/api/v1/learn/swap").status, 422, "nothing has learned");
    correct_one(&school);
    assert_eq!(act("POST", "/api/v1/learn").status, 202);
    let learned = stage(&school, "compared");
    assert_eq!((&learned["pack"], &learned["former"]), (&json!("compact-taught-1"), &json!("first")));
    assert_eq!((&learned["report"]["channel"]["after"], &learned["corrections"]), (&json!(0.9), &json!(1)));
    assert!(learned["lines"][0].as_str().unwrap().starts_with("12/40"), "{learned}");
    let packs = school.folder.path().join("packs");
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(&packs).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["compact-taught-1", "first"], "nothing else stays");
    assert!(!school.corrections().join("work").exists());
    assert_eq!(school.shadows.started.load(Ordering::Relaxed), 1);
    assert_eq!(act("POST", "/api/v1/learn/rollback").status, 422, "it is not in use");
    assert_eq!(act("POST", "/api/v1/learn/swap").status, 200);
    assert_eq!(school.json("/api/v1/learn")["stage"], "in-use");
    assert_eq!(school.shadows.stopped.load(Ordering::Relaxed), 1);
    assert_eq!(act("POST", "/api/v1/learn/rollback").status, 200);
    assert_eq!(school.json("/api/v1/learn")["stage"], "rolled-back");
    assert_eq!(act("POST", "/api/v1/learn").status, 202, "again, from more corrections");
    assert_eq!(stage(&school, "compared")["pack"], "compact-taught-2");
}

#[test]
fn what_keeps_a_pack_from_learning_is_said() {
    let worse = "echo \"touchline: $3: adapting does not help: 0.90 → 0.85 of the held-out samples are right; check the labels\" >&2; exit 6";
    let mut school = School::open(AccessConfig::default(), worse);
    school.hold(&[0.4]);
    correct_one(&school);
    assert_eq!(school.ask("POST", "/api/v1/learn", None, None).status, 202);
    let failed = stage(&school, "failed");
    let error = failed["error"].as_str().unwrap();
    assert!(error.starts_with("corrections: adapting does not help"), "{failed}");
    assert!(!failed.to_string().contains(school.folder.path().to_str().unwrap()), "it names no folder: {failed}");
    assert_eq!(std::fs::read_dir(school.folder.path().join("packs")).unwrap().count(), 1);
    assert_eq!(school.shadows.started.load(Ordering::Relaxed), 0);
}

#[test]
fn learning_can_be_cancelled_and_ends_with_the_program() {
    // It lets go of the output, so that only the end of the process counts.
    let mut school = School::open(AccessConfig::default(), "echo begun >&2; exec sleep 1000");
    school.hold(&[0.4]);
    correct_one(&school);
    let begin = || {
        assert_eq!(school.ask("POST", "/api/v1/learn", None, None).status, 202);
        until("the output", || school.json("/api/v1/learn")["lines"] == json!(["begun"]));
    };
    begin();
    let again = school.ask("POST", "/api/v1/learn", None, None);
    assert!(again.status == 409 && again.body().contains("already"), "{again:?}");
    assert_eq!(school.ask("DELETE", "/api/v1/learn", None, None).status, 204);
    assert_eq!(stage(&school, "cancelled")["error"], json!(null));
    begin();
    school.teach.learner.shut_down();
    stage(&school, "cancelled");
    assert_eq!(school.ask("POST", "/api/v1/learn", None, None).status, 503, "the program ends");
}

#[test]
fn a_child_that_closes_its_output_and_lives_on_blocks_nobody() {
    // Its output is closed, and its end is still to come.
    let lives = format!(
        "echo begun >&2\nexec 2>&-\nwhile [ ! -e \"$0.may-end\" ]; do sleep 0.05; done\nexec 2>/dev/null\n{}",
        well()
    );
    let mut school = School::open(AccessConfig::default(), &lives);
    school.hold(&[0.4]);
    correct_one(&school);
    let is_closed = || {
        let children = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(|entry| entry.path());
        let program = school.folder.path().join("touchline");
        let runs = |path: &PathBuf| {
            let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(program.to_str().unwrap())
        };
        children.filter(runs).any(|path| path.join("fd").is_dir() && !path.join("fd/2").exists())
    };
    for _ in 0..2 {
        assert_eq!(school.ask("POST", "/api/v1/learn", None, None).status, 202);
        until("the output to be closed", is_closed);
        assert_eq!(school.json("/api/v1/learn")["stage"], "learning");
        assert_eq!(school.ask("DELETE", "/api/v1/learn", None, None).status, 204, "it can be cancelled");
        stage(&school, "cancelled");
    }
    assert_eq!(school.ask("POST", "/api/v1/learn", None, None).status, 202);
    until("the output to be closed", is_closed);
    std::fs::write(school.folder.path().join("touchline.may-end"), "").unwrap();
    stage(&school, "compared");
}
