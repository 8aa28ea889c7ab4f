//! Answers RTSP digest challenges that GStreamer 1.22 cannot: algorithms other than MD5 (RFC 7616).

use std::sync::Arc;
use std::time::Duration;

use digest_auth::{AlgorithmType, AuthContext, HttpMethod, WwwAuthenticateHeader};
use tokio::io::{AsyncWriteExt, BufReader};
use url::Url;

use super::connect::connect;
use super::{SourcePolicy, Target, relay};
use crate::web::login::credentials;

/// Time limit for asking a server about its login.
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// The login state of one RTSP connection.
pub(super) struct RtspAuth {
    user: String,
    password: String,
    challenge: Option<WwwAuthenticateHeader>,
    /// The last request, as sent by the client.
    last: Vec<u8>,
    /// Whether it was sent again with an answer to the server's challenge.
    was_answered: bool,
}

/// The relay's action for a message of the server.
pub(super) enum AuthAction {
    /// Pass it to the client.
    Pass,
    /// Drop it and send this request to the server.
    Resend(Vec<u8>),
    /// The login is rejected. Send this answer to the client instead of the 401, to which it would reply with the login itself.
    Refused(Vec<u8>),
}

impl RtspAuth {
    /// The state for the login in `url`, if it has one.
    pub fn new(url: &Url) -> Option<Self> {
        let (user, password) = credentials(url)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (user, password) = (text(user), text(password));
        Some(Self { user, password, challenge: None, last: Vec::new(), was_answered: false })
    }

    /// The message to send to the server for the client's `message`.
    pub fn outward(&mut self, message: Vec<u8>) -> Vec<u8> {
        if message.first() == Some(&b'$') || message.starts_with(b"RTSP/") {
            return message;
        }
        self.was_answered = false;
        self.last.clone_from(&message);
        self.with_login().unwrap_or(message)
    }

    /// Decides about a message of the server.
    pub fn inward(&mut self, message: &[u8]) -> AuthAction {
        let Some(challenge) = unanswerable(message) else { return AuthAction::Pass };
        if std::mem::replace(&mut self.was_answered, true) {
            let text = String::from_utf8_lossy(message);
            let sequence = text.lines().find(|line| name(line) == "cseq").unwrap_or("CSeq: 0");
            return AuthAction::Refused(format!("RTSP/1.0 403 Forbidden\r\n{sequence}\r\n\r\n").into_bytes());
        }
        self.challenge = Some(challenge);
        self.with_login().map_or(AuthAction::Pass, AuthAction::Resend)
    }

    /// The last request with an answer to the challenge; [`None`] without a challenge.
    fn with_login(&mut self) -> Option<Vec<u8>> {
        let challenge = self.challenge.as_mut()?;
        let text = std::str::from_utf8(&self.last).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let mut words = first.split(' ');
        let (method, uri) = (words.next()?.to_owned(), words.next()?);
        let context = AuthContext::new_with_method(
            &self.user[..],
            &self.password[..],
            uri,
            None::<&[u8]>,
            HttpMethod(method.into()),
        );
        let answer = challenge.respond(&context).ok()?.to_header_string();
        let others = headers.split("\r\n").filter(|line| name(line) != "authorization" && !line.is_empty());
        let mut out = format!("{first}\r\nAuthorization: {answer}\r\n");
        others.for_each(|line| out.extend([line, "\r\n"]));
        Some((out + "\r\n" + body).into_bytes())
    }
}

/// Lower-case name of a header.
fn name(line: &str) -> String {
    line.split(':').next().unwrap_or_default().trim_end().to_ascii_lowercase()
}

/// The challenge of a 401 whose digests are all unknown to GStreamer.
fn unanswerable(message: &[u8]) -> Option<WwwAuthenticateHeader> {
    let head = message.split(|b| *b == b'\n').map(|line| String::from_utf8_lossy(line).trim_end().to_owned());
    let mut lines = head.take_while(|line| !line.is_empty());
    let first = lines.next()?;
    let mut words = first.split_ascii_whitespace();
    if !words.next()?.starts_with("RTSP/") || words.next() != Some("401") {
        return None;
    }
    let mut found = None;
    for line in lines.filter(|line| name(line) == "www-authenticate") {
        let value = line.split_once(':')?.1.trim();
        // Basic, or a scheme that this module cannot answer either: GStreamer handles the message.
        let is_digest = value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("digest "));
        let challenge = is_digest.then(|| WwwAuthenticateHeader::parse(&format!("Digest {}", &value[7..])))?.ok()?;
        if challenge.algorithm.algo == AlgorithmType::MD5 {
            return None;
        }
        found.get_or_insert(challenge);
    }
    found
}

/// Asks an RTSP server for its challenge and returns whether only the relay can answer it. [`None`] if `uri` has no login or the
/// server does not answer.
pub(crate) fn needs_relay(uri: &str) -> Option<bool> {
    let target = Target::parse(uri).ok()?;
    credentials(&target.url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(ASK_LIMIT, ask(&target)).await.ok().flatten() });
    // Does not wait for a name that is still being resolved.
    runtime.shutdown_background();
    answer.map(|answer| unanswerable(&answer).is_some())
}

async fn ask(target: &Target) -> Option<Vec<u8>> {
    let mut url = target.url.clone();
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    let mut server = connect(&Arc::new(SourcePolicy::unrestricted()), target).await.ok()?;
    let question = format!("DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n");
    server.write_all(question.as_bytes()).await.ok()?;
    relay::message(&mut BufReader::new(server)).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(lines: &[&str]) -> Vec<u8> {
        let lines: String = lines.iter().map(|line| format!("WWW-Authenticate: {line}\r\n")).collect();
        format!("RTSP/1.0 401 Unauthorized\r\nCSeq: 2\r\n{lines}\r\n").into_bytes()
    }

    const SHA: &str = r#"Digest realm="cam", nonce="abc", algorithm="SHA-256""#;
    const MD5: &str = r#"Digest realm="cam", nonce="abc""#;

    #[test]
    fn only_challenges_that_gstreamer_cannot_answer_are_answered() {
        for (lines, ours) in [
            (&[SHA][..], true),
            (&[r#"digest realm="cam",nonce="abc",algorithm=SHA-256,qop="auth""#], true),
            (&[MD5], false),
            (&[SHA, MD5], false),
            (&[MD5, SHA], false),
            (&[SHA, r#"Basic realm="cam""#], false),
            (&[r#"Basic realm="cam""#], false),
            (&["Negotiate"], false),
            (&[], false),
        ] {
            assert_eq!(unanswerable(&challenge(lines)).is_some(), ours, "{lines:?}");
        }
        assert!(unanswerable(b"RTSP/1.0 200 OK\r\nWWW-Authenticate: Digest realm=\"c\"\r\n\r\n").is_none());
        assert!(unanswerable(b"$\0\0\x03abc").is_none());
    }

    #[test]
    fn a_request_is_resent_with_the_answer_and_a_wrong_login_is_refused() {
        let url = Url::parse("rtsp://ann:p%40ss%231%2Fx%3F%3A%C3%A9@h/live").unwrap();
        let mut auth = RtspAuth::new(&url).unwrap();
        let request = b"DESCRIBE rtsp://127.0.0.1:1/live RTSP/1.0\r\nCSeq: 2\r\nAuthorization: none\r\n\r\n".to_vec();
        assert_eq!(auth.outward(request.clone()), request);
        let AuthAction::Resend(again) = auth.inward(&challenge(&[SHA])) else {
            panic!("the challenge is not answered")
        };
        let again = String::from_utf8(again).unwrap();
        assert!(again.starts_with("DESCRIBE rtsp://127.0.0.1:1/live RTSP/1.0\r\nAuthorization: Digest "), "{again}");
        assert!(again.ends_with("\r\nCSeq: 2\r\n\r\n") && !again.contains("none"), "{again}");
        // SHA-256 of "ann:cam:p@ss#1/x?:é" and of "DESCRIBE:rtsp://127.0.0.1:1/live", joined by the nonce. Computed with Python's
        // hashlib.
        assert!(again.contains(EXPECTED), "{again}");
        let AuthAction::Refused(refusal) = auth.inward(&challenge(&[SHA])) else {
            panic!("the wrong login is not refused")
        };
        assert_eq!(refusal, b"RTSP/1.0 403 Forbidden\r\nCSeq: 2\r\n\r\n");
        // The next request carries the answer immediately.
        let next = auth.outward(b"SETUP rtsp://127.0.0.1:1/live/t RTSP/1.0\r\nCSeq: 3\r\n\r\n".to_vec());
        assert!(String::from_utf8(next).unwrap().contains("algorithm=SHA-256"));
        let media = b"$\0\0\x03abc".to_vec();
        assert_eq!(auth.outward(media.clone()), media);
        assert!(RtspAuth::new(&Url::parse("rtsp://h/live").unwrap()).is_none());
    }

    const EXPECTED: &str = "response=\"78276351786b69e528ee886f49880833c275709b6a07b79e6344424ee553c3ea\"";
}
