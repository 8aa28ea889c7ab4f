//! An RTMP server that plays a live pattern to each viewer, under any name.
//!
//! ffmpeg encodes to FLV, and its tags are sent as RTMP messages. The server looks for the names `connect`, `createStream`
//! and `play` in the viewer's data and ignores the rest. The format is Adobe's RTMP specification 1.0.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Child;

pub struct RtmpServer {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl RtmpServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            for viewer in listener.incoming().flatten() {
                let stopped = stopped.clone();
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                // A viewer that disconnects ends its thread with an error, as intended.
                std::thread::spawn(move || serve(viewer, &stopped).ok());
            }
        });
        Self { port, stop }
    }

    pub fn url(&self) -> String {
        format!("rtmp://127.0.0.1:{}/live/stream", self.port)
    }
}

impl Drop for RtmpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut viewer: TcpStream, stopped: &AtomicBool) -> std::io::Result<()> {
    viewer.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut hello = vec![0; 1537];
    viewer.read_exact(&mut hello)?;
    viewer.write_all(&[&[3u8][..], &[0; 1536], &hello[1..]].concat())?;
    viewer.read_exact(&mut hello[1..])?;

    let mut received = Vec::new();
    wait_for(&mut viewer, &mut received, b"connect")?;
    // A chunk size that splits no message; the acknowledgement window; the bandwidth.
    message(&mut viewer, 2, 1, 0, 0, &0x00ff_ffffu32.to_be_bytes())?;
    message(&mut viewer, 2, 5, 0, 0, &2_500_000u32.to_be_bytes())?;
    message(&mut viewer, 2, 6, 0, 0, &[0, 0x26, 0x25, 0xa0, 2])?;
    let connected =
        [string("_result"), number(1.0), object(&[("fmsVer", "T/1")]), status("NetConnection.Connect.Success")];
    message(&mut viewer, 3, 20, 0, 0, &connected.concat())?;
    let at = wait_for(&mut viewer, &mut received, b"createStream")?;
    let transaction = received[at + 1..at + 9].to_vec();
    let created = [string("_result"), [&[0u8][..], &transaction].concat(), vec![5], number(1.0)];
    message(&mut viewer, 3, 20, 0, 0, &created.concat())?;
    wait_for(&mut viewer, &mut received, b"\x02\x00\x04play")?;
    message(&mut viewer, 2, 4, 0, 0, &[0, 0, 0, 0, 0, 1])?;
    let playing = [string("onStatus"), number(0.0), vec![5], status("NetStream.Play.Start")];
    message(&mut viewer, 5, 20, 1, 0, &playing.concat())?;

    let encoder = Command::new("ffmpeg")
        .args("-v error -nostdin -re -f lavfi -i testsrc2=size=320x180:rate=25".split(' '))
        .args("-re -f lavfi -i sine=frequency=440:sample_rate=44100 -c:v libx264 -preset ultrafast".split(' '))
        .args("-tune zerolatency -pix_fmt yuv420p -g 25 -c:a aac -f flv pipe:1".split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut encoder = Child(encoder);
    let mut flv = encoder.0.stdout.take().expect("standard output is piped");
    flv.read_exact(&mut [0; 13])?;
    while !stopped.load(Ordering::Acquire) {
        let mut head = [0; 11];
        flv.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let time_ms = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
        let mut body = vec![0; length + 4];
        flv.read_exact(&mut body)?;
        message(&mut viewer, 6, head[0], 1, time_ms, &body[..length])?;
    }
    Ok(())
}

/// Reads until `word` and nine more bytes are received. Returns the position after `word`.
fn wait_for(viewer: &mut TcpStream, received: &mut Vec<u8>, word: &[u8]) -> std::io::Result<usize> {
    loop {
        if let Some(at) = received.windows(word.len()).position(|w| w == word)
            && received.len() >= at + word.len() + 9
        {
            return Ok(at + word.len());
        }
        let mut more = [0; 4096];
        match viewer.read(&mut more)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => received.extend_from_slice(&more[..n]),
        }
    }
}

/// One message as one chunk with a full header.
fn message(to: &mut TcpStream, chunk: u8, kind: u8, stream: u32, time_ms: u32, body: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(body.len()).expect("short messages").to_be_bytes();
    let mut out = vec![chunk];
    out.extend(&time_ms.to_be_bytes()[1..]);
    out.extend(&length[1..]);
    out.push(kind);
    out.extend(stream.to_le_bytes());
    out.extend(body);
    to.write_all(&out)
}

fn string(text: &str) -> Vec<u8> {
    [&[2u8][..], &(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn number(value: f64) -> Vec<u8> {
    [&[0u8][..], &value.to_be_bytes()].concat()
}

fn object(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![3];
    for (key, value) in pairs {
        out.extend((key.len() as u16).to_be_bytes());
        out.extend(key.as_bytes());
        out.extend(string(value));
    }
    out.extend([0, 0, 9]);
    out
}

fn status(code: &str) -> Vec<u8> {
    object(&[("level", "status"), ("code", code), ("description", "ok")])
}
