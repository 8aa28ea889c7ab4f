//! The RTSP part of the proxy: relays one connection and checks the server's messages.
//!
//! A redirect would make GStreamer connect to another address, so it is rejected. Media must be interleaved in the same connection,
//! because over UDP they could come from anywhere; an answer with another transport is rejected. Digest challenges that GStreamer
//! cannot answer are answered here (`digest`).
//!
//! Messages are written again from their parsed form, so that a message that two parsers could read differently is not passed on.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::digest::{AuthAction, RtspAuth};
use super::proxy::ProxyState;
use super::{Refusal, Target};
use touchline_core::cause::Cause;

/// The longest head of a message, bytes.
const HEAD_MAX: u64 = 32 * 1024;

/// The longest line of a head, bytes. GStreamer cuts lines at 4,095 bytes.
const LINE_MAX: usize = 4000;

/// The longest body, bytes: a description of a stream.
const BODY_MAX: u64 = 256 * 1024;

pub(super) async fn serve(client: TcpStream, shared: &ProxyState, target: &Target) {
    let server = match shared.connect(target).await {
        Ok(server) => server,
        Err(refusal) => return shared.record_failure(refusal),
    };
    shared.clear_failure();
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    let mut from_server = BufReader::new(from_server);
    // Both directions write to the server: the inward one repeats a request with the login.
    let to_server = &Mutex::new(to_server);
    let auth = &Mutex::new(RtspAuth::new(&target.url));
    let outward = async {
        let mut from_client = BufReader::new(&mut from_client);
        loop {
            // Without a login, requests are copied unchanged.
            if auth.lock().await.is_none() {
                let mut to_server = to_server.lock().await;
                // Fails on a connection that is gone.
                let _ = copy(&mut from_client, &mut *to_server).await;
                return;
            }
            let Ok(Some(message)) = read(&mut from_client, false).await else { return };
            let message = match &mut *auth.lock().await {
                Some(auth) => auth.outward(message),
                None => message,
            };
            if to_server.lock().await.write_all(&message).await.is_err() {
                return;
            }
        }
    };
    let inward = async {
        loop {
            let bytes = match message(&mut from_server).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return,
                Err(refusal) => return shared.record_failure(refusal),
            };
            let reply = auth.lock().await.as_mut().map(|auth| auth.inward(&bytes));
            let bytes = match reply {
                Some(AuthAction::Resend(request)) => {
                    if to_server.lock().await.write_all(&request).await.is_err() {
                        return;
                    }
                    continue;
                }
                Some(AuthAction::Refused(answer)) => {
                    let advice = "check user and password in the URL";
                    shared.record_failure(Refusal::of(Cause::NotAuthorized, "not authorized (401)", advice));
                    answer
                }
                Some(AuthAction::Pass) | None => bytes,
            };
            if to_client.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    // The end of either direction ends the connection: RTSP does not use half-closed connections.
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
    // Fails on a connection that is gone.
    let _ = to_server.lock().await.shutdown().await;
}

/// The next message of the server, or interleaved media; [`None`] at the end and for data that are not RTSP.
pub(super) async fn message(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>, Refusal> {
    read(from, true).await
}

/// Reads a message. With `is_judged`, rejects redirects and other transports.
async fn read(from: &mut (impl AsyncBufRead + Unpin), is_judged: bool) -> Result<Option<Vec<u8>>, Refusal> {
    let mut head = from.take(HEAD_MAX);
    // Empty lines before a message are allowed and ignored.
    let first = loop {
        match head.read_u8().await {
            Ok(b'\r' | b'\n') => {}
            Ok(first) => break first,
            Err(_) => return Ok(None),
        }
    };
    if first == b'$' {
        let mut bytes = vec![first; 4];
        let Ok(_) = from.read_exact(&mut bytes[1..]).await else { return Ok(None) };
        let length = u64::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        return Ok(body(from, bytes, length).await);
    }
    let (mut out, mut length) = (Vec::new(), None);
    let mut line = vec![first];
    loop {
        if !matches!(head.read_until(b'\n', &mut line).await, Ok(1..)) {
            return Ok(None);
        }
        let Some(text) = plain(&line) else { return Ok(None) };
        let is_first = out.is_empty();
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
        if is_first {
            if is_judged && !judge(text)? {
                return Ok(None);
            }
        } else if text.is_empty() {
            break;
        } else {
            let Some((name, value)) = text.split_once(':') else { return Ok(None) };
            match name.trim_end().to_ascii_lowercase().as_str() {
                "content-length" => {
                    let value = value.trim();
                    let is_number = value.bytes().all(|b| b.is_ascii_digit());
                    let Some(found) = value.parse::<u64>().ok().filter(|n| is_number && *n <= BODY_MAX) else {
                        return Ok(None);
                    };
                    // Parsers differ in which of two lengths they use.
                    if length.replace(found).is_some() {
                        return Ok(None);
                    }
                }
                "transport" if is_judged => over_this_connection(value)?,
                _ => {}
            }
        }
        line.clear();
    }
    Ok(body(from, out, length.unwrap_or(0)).await)
}

/// The text of a line that every parser reads alike; [`None`] for other lines.
fn plain(line: &[u8]) -> Option<&str> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).ok()?;
    let is_folded = text.starts_with([' ', '\t']);
    let has_control = text.bytes().any(|b| b != b'\t' && b.is_ascii_control());
    (!is_folded && !has_control && text.len() <= LINE_MAX).then_some(text)
}

async fn body(from: &mut (impl AsyncBufRead + Unpin), mut bytes: Vec<u8>, length: u64) -> Option<Vec<u8>> {
    let has = from.take(length).read_to_end(&mut bytes).await.ok()?;
    (has as u64 == length).then_some(bytes)
}

/// Rejects the first line of a redirect. Returns whether the line is RTSP.
fn judge(line: &str) -> Result<bool, Refusal> {
    let mut words = line.split_ascii_whitespace();
    let (first, second, third) = (words.next().unwrap_or_default(), words.next(), words.next());
    let is_rtsp = |word: &str| word.len() == 8 && word.to_ascii_uppercase().starts_with("RTSP/");
    let code = second.filter(|code| is_rtsp(first) && code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()));
    let is_request = third.is_some_and(is_rtsp) && first.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
    if code.is_some_and(|code| code.starts_with('3')) || first.eq_ignore_ascii_case("REDIRECT") {
        let advice = "give the address of the redirect, if you trust it";
        return Err(Refusal::new("the server redirects to another address, and redirects are not followed", advice));
    }
    Ok(code.is_some() || is_request)
}

/// Rejects transports other than TCP interleaved. For UDP and multicast the client would use any address it is given.
fn over_this_connection(transport: &str) -> Result<(), Refusal> {
    let mut words = transport.split([';', ',']).map(|word| word.trim().to_ascii_lowercase());
    let is_tcp = words.next().is_some_and(|first| first.starts_with("rtp/") && first.ends_with("/tcp"));
    let (mut is_interleaved, mut is_other) = (false, false);
    for word in words {
        is_interleaved |= word.starts_with("interleaved=");
        is_other |= word == "multicast" || word.starts_with("rtp/");
    }
    if is_tcp && is_interleaved && !is_other {
        return Ok(());
    }
    let advice = "configure the server to send media over the RTSP connection (TCP interleaved)";
    Err(Refusal::new("the server sends media over another transport than requested", advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of `text`, or the refusal.
    fn messages(text: &[u8]) -> Result<Vec<String>, Refusal> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut from = BufReader::new(text);
            let mut all = Vec::new();
            while let Some(bytes) = message(&mut from).await? {
                all.push(String::from_utf8_lossy(&bytes).into_owned());
            }
            Ok(all)
        })
    }

    #[test]
    fn messages_and_media_pass_and_redirects_do_not() {
        let ok = "RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 4\r\n\r\nv=0\n";
        let media = "$\x00\x00\x03abc";
        assert_eq!(messages(format!("{ok}{media}{ok}").as_bytes()).unwrap(), [ok, media, ok]);
        for text in [
            "RTSP/1.0 302 Found\r\nLocation: rtsp://127.0.0.2/\r\n\r\n",
            "rtsp/1.0  301 Moved\r\n\r\n",
            "REDIRECT rtsp://h/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        ] {
            assert!(messages(format!("{ok}{media}{text}").as_bytes()).is_err(), "{text}");
        }
        // Messages that another parser might read as a redirect.
        for text in [
            "\r\nRTSP/1.0 302 Found\r\nLocation: rtsp://127.0.0.2/\r\n\r\n",
            "\n\r\n\nREDIRECT rtsp://h/ RTSP/1.0\r\n\r\n",
        ] {
            assert!(messages(text.as_bytes()).is_err(), "{text:?}");
        }
        for text in [
            "RTSP/1.0 200 OK\rCSeq: 1\r\rRTSP/1.0 302 Found\n\n".to_owned(),
            "RTSP/1.0 200 OK\nX: \0\n\n".to_owned(),
            "RTSP/1.0 200 OK\nContent-Length: 0\nContent-Length: 40\n\nRTSP/1.0 302 Found\nLocation: rtsp://h/\n\n"
                .to_owned(),
            "RTSP/1.0 200 OK\nContent-Length: +4\n\nv=0\n".to_owned(),
            "RTSP/1.0 200 OK\nContent-Length:\n 4\n\nv=0\n".to_owned(),
            format!("RTSP/1.0 200 OK\nContent-Length: {}4\n\nv=0\n", "0".repeat(5000)),
            "RTSP/1.0 0302 Found\n\n".to_owned(),
            "HTTP/1.1 302 Found\n\n".to_owned(),
            "RTSP/1.0 200 OK\nno header\n\n".to_owned(),
        ] {
            assert_eq!(messages(text.as_bytes()).unwrap(), Vec::<String>::new(), "{text:?}");
        }
        assert_eq!(messages(b"\r\n\nRTSP/1.0 200 OK\nCSeq: 1\n\n").unwrap(), ["RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"]);
        let request = "GET_PARAMETER rtsp://h/ RTSP/1.0\r\nCSeq: 1\r\n\r\n";
        assert_eq!(messages(request.as_bytes()).unwrap(), [request]);
        // Truncated, and too long.
        assert_eq!(messages(b"RTSP/1.0 200 OK\r\nCSeq").unwrap(), Vec::<String>::new());
        assert_eq!(messages(b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn media_are_accepted_only_interleaved() {
        let with = |transport: &str| messages(format!("RTSP/1.0 200 OK\r\nTransport: {transport}\r\n\r\n").as_bytes());
        for accepted in ["RTP/AVP/TCP;unicast;interleaved=0-1", "rtp/avp/tcp; interleaved=2-3 ;ssrc=1;mode=\"PLAY\""] {
            assert_eq!(with(accepted).unwrap().len(), 1, "{accepted}");
        }
        for refused in [
            "RTP/AVP;multicast;destination=239.1.2.3;port=5000-5001",
            "RTP/AVP;unicast;source=10.0.0.5;client_port=1-2;server_port=161-162",
            "RTP/AVP/UDP;unicast;interleaved=0-1",
            "RTP/AVP/TCP;unicast",
            "RTP/AVP/TCP;interleaved=0-1;multicast",
            "RTP/AVP/TCP;interleaved=0-1,RTP/AVP;multicast",
            "",
        ] {
            assert!(with(refused).is_err(), "{refused}");
        }
    }
}
