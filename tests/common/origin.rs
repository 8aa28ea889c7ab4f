//! A live HLS origin with faults on demand: errors, a frozen playlist, slow answers, garbage. It can also insert advertisements.
//!
//! The segments are made in advance. The playlist follows the clock.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;

use super::Fixtures;

/// How the origin answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Normal,
    /// Every answer has this status.
    Status(u16),
    /// The playlist no longer moves.
    Frozen,
    /// The playlist has an end mark.
    Ended,
    /// One byte every 300 ms.
    SlowLoris,
    /// Segments are noise.
    Garbage,
    /// Connections are closed without an answer.
    Closes,
}

/// Segments in the playlist, of one second each.
pub const WINDOW: usize = 6;

/// The wall time of the first segment, ms since 1970. It is an hour ago, so that it differs from every arrival time.
pub fn first_ms() -> i64 {
    static FIRST: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *FIRST.get_or_init(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
        now.as_millis() as i64 - 3_600_000
    })
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    began: Instant,
    /// The segments of the programme and of the advertisement.
    segments: [Vec<Vec<u8>>; 2],
    /// Whether each segment so far is an advertisement.
    ads: Mutex<Vec<bool>>,
    is_ad_due: AtomicBool,
    frozen: Mutex<Option<String>>,
    stop: AtomicBool,
}

pub struct Origin {
    shared: Arc<Shared>,
    host: String,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// One-second segments of 320×180 with a tone. The advertisements have the same size and time stamps of their own.
    pub fn start() -> Self {
        Self::start_at("127.0.0.1")
    }

    /// Like [`Origin::start`], on another address of this machine.
    pub fn start_at(host: &str) -> Self {
        let dir = Fixtures::new();
        let make = |name: &str, pattern: &str, seconds: u32| -> Vec<Vec<u8>> {
            super::ffmpeg(
                &format!(
                    "-f lavfi -i {pattern}=size=320x180:rate=25:duration={seconds} \
                     -f lavfi -i sine=frequency=440:sample_rate=44100:duration={seconds} \
                     -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 25 -bf 0 -c:a aac \
                     -f hls -hls_time 1 -hls_list_size 0 -hls_segment_filename {}/{name}%d.ts",
                    dir.path().display()
                ),
                &dir.path().join(format!("{name}.m3u8")),
            );
            let path = |i: u32| dir.path().join(format!("{name}{i}.ts"));
            (0..seconds).map(|i| std::fs::read(path(i)).expect("one segment per second")).collect()
        };
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour::Normal),
            began: Instant::now(),
            segments: [make("programme", "testsrc2", 90), make("ad", "testsrc", 20)],
            ads: Mutex::default(),
            is_ad_due: AtomicBool::new(false),
            frozen: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let listener = TcpListener::bind((host, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let serving = shared.clone();
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if serving.stop.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(connection), shared) = (connection, serving.clone()) else { continue };
                // A client may disconnect in the middle of an answer.
                std::thread::spawn(move || serve(connection, &shared).ok());
            }
        });
        Self { shared, host: host.to_owned(), port, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}:{}/live.m3u8", self.host, self.port)
    }

    pub fn set_behaviour(&self, behaviour: Behaviour) {
        let end = if behaviour == Behaviour::Ended { "#EXT-X-ENDLIST\n" } else { "" };
        if matches!(behaviour, Behaviour::Frozen | Behaviour::Ended) {
            *self.shared.frozen.lock() = Some(playlist(&self.shared) + end);
        }
        *self.shared.behaviour.lock() = behaviour;
    }

    /// Switches to advertisements from the next segment on, or back to the programme.
    pub fn advertise(&self, on: bool) {
        self.shared.is_ad_due.store(on, Ordering::Release);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect((self.host.as_str(), self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The current playlist.
fn playlist(shared: &Shared) -> String {
    let mut ads = shared.ads.lock();
    let due = WINDOW + shared.began.elapsed().as_secs() as usize;
    while ads.len() < due {
        ads.push(shared.is_ad_due.load(Ordering::Acquire));
    }
    let first = due - WINDOW;
    let mut text = format!("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
    for n in first..due {
        let is_first_of_loop = n > 0 && place(&ads, n).1 == 0;
        if n > 0 && (ads[n] != ads[n - 1] || is_first_of_loop) {
            text += "#EXT-X-DISCONTINUITY\n";
        }
        let ms = first_ms() + 1_000 * n as i64;
        text += &format!("#EXT-X-PROGRAM-DATE-TIME:{}\n#EXTINF:1.000,\n{n}.ts\n", date(ms));
    }
    text
}

/// Milliseconds since 1970 as a date with time.
fn date(ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).expect("a valid time");
    let (h, m, s, ms) = time.to_hms_milli();
    format!("{}T{h:02}:{m:02}:{s:02}.{ms:03}Z", time.date())
}

/// The kind of segment `n`, and its index among the segments of that kind.
fn place(ads: &[bool], n: usize) -> (usize, usize) {
    let kind = usize::from(ads[n]);
    let of_kind = ads[..n].iter().filter(|ad| **ad == ads[n]).count();
    (kind, of_kind % if kind == 0 { 90 } else { 20 })
}

fn serve(connection: TcpStream, shared: &Shared) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut out = connection;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
        }
        let path = request.split_whitespace().nth(1).unwrap_or("/").to_owned();
        let behaviour = *shared.behaviour.lock();
        let body = if path.ends_with(".m3u8") {
            let frozen =
                shared.frozen.lock().clone().filter(|_| matches!(behaviour, Behaviour::Frozen | Behaviour::Ended));
            frozen.unwrap_or_else(|| playlist(shared)).into_bytes()
        } else {
            let n = path.trim_matches('/').trim_end_matches(".ts").parse::<usize>().unwrap_or(usize::MAX);
            let ads = shared.ads.lock().clone();
            if n >= ads.len() {
                out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            let (kind, index) = place(&ads, n);
            match behaviour {
                Behaviour::Garbage => (0..40_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect(),
                _ => shared.segments[kind][index].clone(),
            }
        };
        match behaviour {
            Behaviour::Status(status) => {
                write!(out, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            Behaviour::Closes => return Ok(()),
            _ => {}
        }
        write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
        if behaviour == Behaviour::SlowLoris {
            for byte in &body {
                if *shared.behaviour.lock() != Behaviour::SlowLoris || shared.stop.load(Ordering::Acquire) {
                    return Ok(());
                }
                out.write_all(std::slice::from_ref(byte))?;
                std::thread::sleep(Duration::from_millis(300));
            }
        } else {
            out.write_all(&body)?;
        }
    }
}
