//! Media and media servers for integration tests. All media are generated at test time. The servers run on this machine, on ports
//! that the system picks, and end when dropped.
#![allow(dead_code)] // Each test binary uses a part of it.

pub mod api;
pub mod camera;
pub mod http;
pub mod live;
pub mod origin;
pub mod pictures;
pub mod program;
pub mod reference;
pub mod rtmp;
pub mod rtsp;
pub mod senders;
pub mod skip;
pub mod training;
pub mod ts;
pub mod wait;
pub mod watched;
pub mod webdriver;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use parking_lot::{Mutex, MutexGuard};
/// A lock for tests that must not run at the same time. Tests that run the whole program with inference take it, because several
/// would starve each other on a small machine. A test must not take it twice.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // The lock protects no data, so a failed test cannot leave it inconsistent.
    ONE.lock()
}

/// Initialises GStreamer. Panics with its message on failure.
pub fn init() {
    gstreamer::init().expect("GStreamer starts");
}

/// This test binary in a new process that runs only the ignored test `name` of `module` (`module_path!()`).
pub fn again(module: &str, name: &str) -> Command {
    let inside = module.split_once("::").map_or(String::new(), |(_, inside)| format!("{inside}::"));
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    command.args(["--exact", &format!("{inside}{name}"), "--ignored", "--nocapture"]);
    command
}

/// A port that is free at the moment.
pub fn free_tcp_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a free port").port()
}

/// Like [`free_tcp_port`], for UDP.
pub fn free_udp_port() -> u16 {
    std::net::UdpSocket::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a free port").port()
}

/// Runs ffmpeg and waits for it. Panics with its output if it fails. `arguments` are split at spaces; a `~` is a space
/// within an argument.
pub fn ffmpeg(arguments: &str, output: &Path) {
    let done = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(arguments.split_whitespace().map(|a| a.replace('~', " ")))
        .arg(output)
        .stdin(Stdio::null())
        .output()
        .expect("ffmpeg is installed");
    assert!(done.status.success(), "ffmpeg {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A temporary folder of media that are made on demand.
pub struct Fixtures {
    dir: tempfile::TempDir,
}

impl Fixtures {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes `name` with ffmpeg; `arguments` are those before the output file.
    pub fn make(&self, name: &str, arguments: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        ffmpeg(arguments, &path);
        path
    }

    /// Converts `recording` to an HLS playlist with one-second segments, without encoding it again.
    pub fn playlist(&self, name: &str, recording: &Path) -> PathBuf {
        self.make(name, &format!("-i {} -c copy -f hls -hls_time 1 -hls_list_size 0", recording.display()))
    }

    /// A moving pattern and a tone: H.264 and AAC, 30 pictures a second, 44.1 kHz stereo.
    pub fn clip(&self, name: &str, seconds: u32) -> PathBuf {
        self.make(
            name,
            &format!(
                "-f lavfi -i testsrc2=size=320x180:rate=30:duration={seconds} \
                 -f lavfi -i sine=frequency=440:sample_rate=44100:duration={seconds} \
                 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 30 -bf 0 -c:a aac -ac 2"
            ),
        )
    }

    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).expect("the temporary folder is writable");
        path
    }
}

/// A child process that is killed and waited for when dropped.
pub struct Child(pub std::process::Child);

impl Child {
    /// Starts ffmpeg with `arguments`, split at spaces.
    pub fn ffmpeg(arguments: &str) -> Self {
        let child = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-y"])
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ffmpeg is installed");
        Self(child)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when the child has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
