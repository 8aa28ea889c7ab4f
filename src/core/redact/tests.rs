use super::*;

#[test]
fn uris_lose_their_secrets_and_keep_the_rest() {
    for (given, redacted) in [
        ("rtsp://ann:s3cret@cam.example:554/live/1", "rtsp://***@cam.example:554/live/1"),
        ("https://h.example/a.m3u8?token=abc#t=1", "https://h.example/a.m3u8?***"),
        ("srt://h.example:9000?mode=caller&passphrase=longsecret", "srt://h.example:9000?***"),
        ("rtsp://ann:pa/ss@word@cam/live", "rtsp://***@cam/live"),
        ("rtsp://ann:geheim#1@cam/live", "rtsp://***@cam/live"),
        ("rtsp://ann:1234?56@cam/live?a=b", "rtsp://***"),
        ("rtsp://ann:ge/heim#1@cam", "rtsp://***@cam"),
        ("https://h.example:8443/a.m3u8?mail=me@there", "https://h.example/***"),
        ("rtsp://ann:p@ss/word@cam/live", "rtsp://***"),
        ("udp://@239.1.2.3:5004", "udp://@239.1.2.3:5004"),
        ("https://h.example/a.m3u8?mail=me@there", "https://h.example/a.m3u8?***"),
        ("rtmp://h.example/app/KEY-12", "rtmp://h.example/app/***"),
        ("/recordings/a file?.mp4", "/recordings/a file?.mp4"),
        ("testsrc://?seconds=5", "testsrc://?seconds=5"),
    ] {
        assert_eq!(uri(given), redacted);
    }
}

#[test]
fn text_is_one_line_without_secrets() {
    let _known = remember("rtsp://bob:hunter%402x@cam/live?key=abcd1234&mode=caller");
    let redacted =
        text("cannot open \"rtsp://bob:hunter%402x@cam/live?key=abcd1234\"\n user hunter@2x, abcd1234 caller");
    assert!(!redacted.contains("hunter") && !redacted.contains("abcd1234") && !redacted.contains('\n'), "{redacted}");
    assert!(redacted.contains("rtsp://***@cam/live?***") && redacted.contains("caller"), "{redacted}");
    let _known = remember("rtsp://ann:ge-heim#one@cam/live");
    assert_eq!(text("password ge-heim#one"), "password ***");
    assert_eq!(text("login ann:ge-heim#one"), "login ***");
    let _known = remember("rtsp://eve:24681357@cam/live?latency=2000");
    assert_eq!(text("user eve, 24681357, latency 2000"), "user eve, ***, latency 2000", "a number may be a password");
}

#[test]
fn words_stay_readable() {
    let _known = [
        remember("https://ann:secret@h.example/a?format=mpegts&profile=baseline-high&token=live&key=stream"),
        remember("rtsp://ann:password@h.example/a"),
        remember("rtsp://ann:1234@h.example/a"),
    ];
    let message = "format mpegts, baseline-high, live stream 1234, a secret password";
    assert_eq!(text(message), message);
    assert_eq!(text("login ann:secret"), "login ***", "except as a password");
    assert_eq!(text("GET /a?format=mpegts&token=live, then"), "GET /a?***, then");
    assert_eq!(text("what? a=b"), "what? a=b");
}

#[test]
fn secrets_are_masked_while_they_are_configured() {
    let known = remember("rtsp://ann:released-1x@h.example/a");
    let same = remember("rtsp://bob:released-1x@h.example/b");
    let other = known.clone();
    drop((known, other));
    let flush = || (0..2 * LEFT_MAX).for_each(|n| drop(remember_secret(&format!("flushed-{n}-x"))));
    flush();
    assert_eq!(text("released-1x"), MASK, "another stream still has it");
    drop(same);
    assert_eq!(text("released-1x"), MASK, "messages of an ending stream may contain it");
    flush();
    assert_eq!(text("released-1x"), "released-1x");
    let secrets = SECRETS.read();
    assert!(secrets.left.len() <= LEFT_MAX, "{}", secrets.left.len());
}

#[test]
fn percent_encoded_text_is_decoded() {
    assert_eq!(percent_decode("a%26b&c=d+e%2Bf%zz"), b"a&b&c=d+e+f%zz");
}

#[test]
fn logins_are_masked_in_the_form_that_clients_send() {
    let _known = remember("http://zoe:gr%C3%BCn-pass@cam/live");
    let sent = BASE64_STANDARD.encode("zoe:grün-pass");
    assert_eq!(text(&format!("Authorization: Basic {sent}")), "Authorization: Basic ***");
}

#[test]
fn text_without_urls_is_unchanged() {
    assert_eq!(text("no such file: /a/b.mp4"), "no such file: /a/b.mp4");
    assert_eq!(text("é://x"), "é://x");
    assert_eq!(text("[see http://[::1]:80/a, or not]"), "[see http://[::1]:80/a, or not]");
    assert_eq!(text("write rtsp://HOST…"), "write rtsp://HOST…");
}

#[test]
fn secrets_are_masked_in_quoted_texts() {
    let secret = r#"a"b\c-quoted"#;
    let _guard = remember_secret(secret);
    assert_eq!(text(&format!("{secret} {secret:?}")), r#"*** "***""#);
}
