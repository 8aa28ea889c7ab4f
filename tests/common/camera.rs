//! A camera: an RTSP server of our own with a login and an adjustable clock. It sends H.264 over TCP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// The login and the clock of a camera.
#[derive(Clone)]
pub struct CameraOptions {
    /// The required user and password, for digest authentication with SHA-256.
    pub login: Option<(String, String)>,
    /// The error of the clock in the `n`th sender report, in seconds.
    pub clock: fn(n: u64) -> f64,
}

impl Default for CameraOptions {
    fn default() -> Self {
        Self { login: None, clock: |_| 0.0 }
    }
}

pub struct Camera {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

const NTP_TO_UNIX_S: f64 = 2_208_988_800.0;
const NONCE: &str = "5ccc069c403ebaf9";

impl Camera {
    pub fn start(options: CameraOptions) -> Self {
        let pictures = Arc::new(pictures());
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let log = requests.clone();
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (options, pictures, log) = (options.clone(), pictures.clone(), log.clone());
                std::thread::spawn(move || serve(client, &options, &pictures, &log));
            }
        });
        Self { port, requests }
    }

    /// The URL with `login` unchanged in front of the host.
    pub fn url(&self, login: &str) -> String {
        format!("rtsp://{login}127.0.0.1:{}/live", self.port)
    }

    /// The first lines and `Authorization` headers of all requests.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }
}

/// One second of pictures as NAL units. Each picture includes the parameter sets before it.
fn pictures() -> Vec<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("v.h264");
    super::ffmpeg(
        "-f lavfi -i testsrc2=size=160x120:rate=25:duration=1 -c:v libx264 -preset ultrafast -tune zerolatency \
         -pix_fmt yuv420p -g 25 -bf 0 -x264-params slices=1:repeat-headers=1 -f h264",
        Path::new(&path),
    );
    let bytes = std::fs::read(&path).expect("ffmpeg wrote it");
    let starts: Vec<usize> = (0..bytes.len() - 2).filter(|at| bytes[*at..].starts_with(&[0, 0, 1])).collect();
    let mut all = Vec::new();
    let mut picture = Vec::new();
    for (n, start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(bytes.len());
        let unit: Vec<u8> = bytes[start + 3..end].to_vec();
        let kept = unit.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let kind = unit[0] & 31;
        picture.push(unit[..kept].to_vec());
        if matches!(kind, 1 | 5) {
            all.push(std::mem::take(&mut picture));
        }
    }
    all
}

fn hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// A value in the header of a digest login.
fn value<'a>(header: &'a str, name: &str) -> &'a str {
    let found = header.split([',', ' ']).find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_default().trim_matches('"')
}

fn is_authorized(login: &Option<(String, String)>, method: &str, header: &str) -> bool {
    let Some((user, password)) = login else { return true };
    if method == "OPTIONS" {
        return true;
    }
    let secret = hex(&format!("{user}:cam:{password}"));
    let request = hex(&format!("{method}:{}", value(header, "uri")));
    header.starts_with("Digest ") && value(header, "response") == hex(&format!("{secret}:{NONCE}:{request}"))
}

fn serve(client: TcpStream, options: &CameraOptions, pictures: &Arc<Vec<Vec<Vec<u8>>>>, log: &Mutex<Vec<String>>) {
    let Ok(mut writer) = client.try_clone() else { return };
    let mut reader = BufReader::new(client);
    loop {
        let mut first = [0; 1];
        if reader.read_exact(&mut first).is_err() {
            return;
        }
        if first[0] == b'$' {
            let mut head = [0; 3];
            if reader.read_exact(&mut head).is_err() {
                return;
            }
            let mut body = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            continue;
        }
        let mut lines = vec![String::from(char::from(first[0]))];
        if reader.read_line(&mut lines[0]).is_err() {
            return;
        }
        loop {
            let mut line = String::new();
            if !matches!(reader.read_line(&mut line), Ok(1..)) {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line);
        }
        let header = |name: &str| {
            let found = lines.iter().find(|line| line.to_ascii_lowercase().starts_with(name));
            found.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim()).to_owned()
        };
        let (sequence, login) = (header("cseq:"), header("authorization:"));
        log.lock().push(format!("{} {login}", lines[0].trim()));
        let mut words = lines[0].split_whitespace();
        let (method, uri) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
        let answer = if is_authorized(&options.login, method, &login) {
            let body = match method {
                "DESCRIBE" => {
                    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=cam\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n\
                     m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n\
                     a=control:track\r\n"
                }
                _ => "",
            };
            let headers = match method {
                "OPTIONS" => "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n".to_owned(),
                "DESCRIBE" => format!("Content-Type: application/sdp\r\nContent-Base: {uri}/\r\n"),
                "SETUP" => "Session: 1;timeout=60\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n".to_owned(),
                _ => "Session: 1\r\n".to_owned(),
            };
            format!("RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
        } else {
            format!(
                "RTSP/1.0 401 Unauthorized\r\nCSeq: {sequence}\r\n\
                 WWW-Authenticate: Digest realm=\"cam\", nonce=\"{NONCE}\", algorithm=\"SHA-256\"\r\n\r\n"
            )
        };
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
        if method == "PLAY" && answer.contains(" 200 ") {
            let (Ok(to), pictures, clock) = (writer.try_clone(), pictures.clone(), options.clock) else { return };
            std::thread::spawn(move || send(to, &pictures, clock));
        }
    }
}

fn send(mut to: TcpStream, pictures: &[Vec<Vec<u8>>], clock: fn(u64) -> f64) {
    let (began, mut sequence) = (Instant::now(), 0u16);
    for n in 0u32.. {
        let time = n.wrapping_mul(3600);
        let mut packets: Vec<(u8, Vec<u8>)> = Vec::new();
        let picture = &pictures[n as usize % pictures.len()];
        for (at, unit) in picture.iter().enumerate() {
            let is_last = at + 1 == picture.len();
            let pieces: Vec<Vec<u8>> = if unit.len() <= 1200 {
                vec![unit.clone()]
            } else {
                // Fragments of a unit (RFC 6184, 5.8).
                let chunks: Vec<&[u8]> = unit[1..].chunks(1200).collect();
                let count = chunks.len();
                let head = |i: usize| {
                    let (start, end) = (u8::from(i == 0) << 7, u8::from(i + 1 == count) << 6);
                    [(unit[0] & 0xe0) | 28, start | end | (unit[0] & 31)]
                };
                chunks.iter().enumerate().map(|(i, chunk)| [&head(i)[..], chunk].concat()).collect()
            };
            let count = pieces.len();
            for (i, piece) in pieces.into_iter().enumerate() {
                let mark = if is_last && i + 1 == count { 0x80 } else { 0 };
                let mut packet = vec![0x80, mark | 96];
                packet.extend(sequence.to_be_bytes());
                packet.extend(time.to_be_bytes());
                packet.extend(7u32.to_be_bytes());
                packet.extend(piece);
                sequence = sequence.wrapping_add(1);
                packets.push((0, packet));
            }
        }
        if n % 10 == 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
            let ntp_s = (now + NTP_TO_UNIX_S + clock(u64::from(n / 10))).max(0.0);
            let mut report = vec![0x80, 200, 0, 6];
            report.extend(7u32.to_be_bytes());
            report.extend((ntp_s as u64 as u32).to_be_bytes());
            report.extend(((ntp_s.fract() * 4_294_967_296.0) as u32).to_be_bytes());
            report.extend(time.to_be_bytes());
            report.extend([0; 8]);
            packets.push((1, report));
        }
        for (channel, packet) in packets {
            let mut out = vec![b'$', channel];
            out.extend(u16::try_from(packet.len()).expect("a small packet").to_be_bytes());
            out.extend(packet);
            if to.write_all(&out).is_err() {
                return;
            }
        }
        let due = Duration::from_millis(40) * (n + 1);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
}
