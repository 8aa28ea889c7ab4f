//! The passage for RTSP: one connection, on which the server's answers are looked at. A redirect would make GStreamer connect
//! elsewhere, so it is refused. Media come over the same connection: over UDP they could be sent for from anywhere.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::TcpStream;

use super::passage::Shared;
use super::{Refusal, Target};

/// The longest head of a message, and the longest body: a description of a stream.
const HEAD_MAX: u64 = 32 * 1024;
const BODY_MAX: u64 = 256 * 1024;

pub(super) async fn serve(client: TcpStream, shared: &Shared, target: &Target) {
    let server = match shared.connect(target).await {
        Ok(server) => server,
        Err(refusal) => return shared.failed(refusal),
    };
    shared.went_well();
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = tokio::io::split(server);
    let mut from_server = BufReader::new(from_server);
    let outward = async {
        let copied = copy(&mut from_client, &mut to_server).await;
        // Fails on a connection that is gone.
        let _ = to_server.shutdown().await;
        copied
    };
    let inward = async {
        loop {
            match message(&mut from_server).await {
                Ok(Some(bytes)) if to_client.write_all(&bytes).await.is_ok() => {}
                Ok(_) => return,
                Err(refusal) => return shared.failed(refusal),
            }
        }
    };
    // Whoever ends first ends the connection: RTSP has no use for half of one.
    tokio::select! {
        _ = outward => {}
        () = inward => {}
    }
}

/// The next message of the server, or piece of media; [`None`] at the end and for what is no RTSP.
async fn message(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>, Refusal> {
    let mut bytes = Vec::new();
    let Ok(first) = from.read_u8().await else { return Ok(None) };
    bytes.push(first);
    if first == b'$' {
        let mut head = [0; 3];
        let Ok(_) = from.read_exact(&mut head).await else { return Ok(None) };
        bytes.extend(head);
        let length = u64::from(u16::from_be_bytes([head[1], head[2]]));
        return Ok(body(from, bytes, length).await);
    }
    let mut length = 0;
    let mut head = from.take(HEAD_MAX);
    let mut begun = 0;
    loop {
        match head.read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&bytes[begun..]).trim().to_owned();
        if begun == 0 {
            judge(&line)?;
        } else if line.is_empty() {
            break;
        } else if let Some((name, value)) = line.split_once(':')
            && name.trim().eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(u64::MAX);
        }
        begun = bytes.len();
    }
    if length > BODY_MAX {
        return Ok(None);
    }
    Ok(body(from, bytes, length).await)
}

async fn body(from: &mut (impl AsyncBufRead + Unpin), mut bytes: Vec<u8>, length: u64) -> Option<Vec<u8>> {
    let has = from.take(length).read_to_end(&mut bytes).await.ok()?;
    (has as u64 == length).then_some(bytes)
}

/// Refuses the first line of a message that sends the client elsewhere.
fn judge(line: &str) -> Result<(), Refusal> {
    let mut words = line.split_whitespace();
    let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let redirects = first.to_ascii_uppercase().starts_with("RTSP/") && second.starts_with('3');
    if redirects || first.eq_ignore_ascii_case("REDIRECT") {
        let advice = "give the address that it leads to, if you trust it";
        return Err(Refusal::new("the server redirects elsewhere, which is not followed here", advice));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of `text`, or what was refused.
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
        // Cut off, and too long.
        assert_eq!(messages(b"RTSP/1.0 200 OK\r\nCSeq").unwrap(), Vec::<String>::new());
        assert_eq!(messages(b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n").unwrap(), Vec::<String>::new());
    }
}
