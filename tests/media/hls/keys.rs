//! Encrypted segments: rotating keys, explicit and implied vectors, refused keys, and unsupported methods.

use std::sync::Arc;

use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit};
use touchline_core::cause::Cause;

use super::case::{
    Case, Expect, Site, all, counts, fails, fails_after, fails_with_cause, gap, in_runs, or, run, secs, shows, whole,
};
use super::list::{BREAK, List, master, plain};
use super::material::{BASE, file};
use super::server::{Answer, Request};

pub const KEYS: [[u8; 16]; 2] =
    [*b"0123456789abcdef", *b"\x00\xff\x10\xef\x20\xdf\x30\xcf\x40\xbf\x50\xaf\x60\x9f\x70\x8f"];

/// Encrypts `bytes` with AES-128 as in HLS.
pub fn encrypt(bytes: &[u8], key: &[u8; 16], iv: u128) -> Arc<[u8]> {
    let iv = iv.to_be_bytes();
    let encryptor = cbc::Encryptor::<aes::Aes128>::new(key.into(), (&iv).into());
    encryptor.encrypt_padded_vec::<Pkcs7>(bytes).into()
}

/// Serves `k0` and `k1`, and segments encrypted with the key and vector that `key_of` returns for their number.
fn site(list: &List, key_of: fn(u128) -> Option<(usize, u128)>) -> Site {
    let number = |request: &Request| -> Option<u128> {
        let (_, name) = request.path().rsplit_once("/s")?;
        name.split('.').next()?.parse().ok()
    };
    let site = Site::of(list).any(move |request| {
        let n = number(request)?;
        let bytes = super::material::files().get(request.path())?;
        let (key, iv) = key_of(n)?;
        Some(Answer::bytes(encrypt(bytes, &KEYS[key], iv)))
    });
    site.answers("k0", Answer::bytes(KEYS[0])).answers("k1", Answer::bytes(KEYS[1]))
}

fn key(rest: &str) -> String {
    format!("#EXT-X-KEY:{rest}")
}

#[test]
fn encrypted_recordings_play() {
    let implied = || plain().sequence(7).head(&key("METHOD=AES-128,URI=\"k0\""));
    let rotating = implied().before(3, &key("METHOD=AES-128,URI=\"/k1\",IV=0x0000000000000000000000000000002A"));
    let clear = implied().before(2, &key("METHOD=NONE")).before(4, &key("METHOD=AES-128,URI=\"k1\""));
    let of = |name: &str, list: &List, key_of| Case::new(name, site(list, key_of), whole());
    let each = (0..6).fold(plain(), |list, n| {
        list.before(n, &key(&format!("METHOD=AES-128,URI=\"k{}\",IV=0X{:032x}", n % 2, n + 1000)))
    });
    let fmp4 = List::segments("f4", "m4s", 0..6)
        .head("#EXT-X-MAP:URI=\"f4/init.mp4\"")
        .before(0, &key("METHOD=AES-128,URI=\"k0\",IV=0x00000000000000000000000000000001"));
    let encrypted_map = List::segments("f4", "m4s", 0..6)
        .head(&key("METHOD=AES-128,URI=\"k0\",IV=0x00000000000000000000000000000001"))
        .head("#EXT-X-MAP:URI=\"f4/init.mp4\"");
    let map = encrypt(&file("f4/init.mp4"), &KEYS[0], 1);
    run(vec![
        of("implied vector", &implied(), |n| Some((0, 7 + n))),
        of("rotating keys", &rotating, |n| Some(if n < 3 { (0, 7 + n) } else { (1, 42) })),
        of("clear in between", &clear, |n| match n {
            0..2 => Some((0, 7 + n)),
            2..4 => None,
            _ => Some((1, 7 + n)),
        }),
        of("a key for each segment", &each, |n| Some(((n % 2) as usize, n + 1000))),
        of(
            "KEYFORMAT identity",
            &plain().head(&key("METHOD=AES-128,URI=\"k0\",KEYFORMAT=\"identity\",KEYFORMATVERSIONS=\"1\"")),
            |n| Some((0, n)),
        ),
        of("a key after the map", &fmp4, |_| Some((0, 1))),
        Case::new(
            "an encrypted map",
            site(&encrypted_map, |_| Some((0, 1))).answers("f4/init.mp4", Answer::bytes(map)),
            whole(),
        ),
        Case::new(
            "a segment is missing",
            site(&implied(), |n| Some((0, 7 + n))).answers("ts/s2.ts", Answer::status(404)),
            shows(super::lost::without(&[2])),
        ),
        Case::new("a gap", site(&implied().replace(2, "#EXT-X-GAP\n#EXTINF:2,\nno.ts"), |n| Some((0, 7 + n))), {
            shows(super::lost::without(&[2]))
        })
        .never_requests("no.ts"),
        Case::new(
            "a break with another key",
            site(&implied().before(3, &key("METHOD=AES-128,URI=\"k1\"")).before(3, BREAK), |n| {
                Some((usize::from(n >= 3), 7 + n))
            }),
            in_runs(2, secs(BASE, 0..12)),
        ),
        Case::new(
            "a key with a cookie",
            {
                let list = implied();
                let text = list.text();
                site(&list, |n| Some((0, 7 + n)))
                    .on("x.m3u8", move |_| Answer::list(text.clone()).with("Set-Cookie", "s=1; Path=/"))
                    .on("k0", |r| {
                        if r.header("cookie").is_some_and(|c| c.contains("s=1")) {
                            Answer::bytes(KEYS[0])
                        } else {
                            Answer::status(403)
                        }
                    })
            },
            whole(),
        ),
        Case::new("a key is cached", site(&implied(), |n| Some((0, 7 + n))), whole()).check(
            |_, requests| match requests.iter().filter(|r| r.path() == "k0").count() {
                1..=2 => Ok(()),
                n => Err(format!("the key was fetched {n} times")),
            },
        ),
    ]);
}

#[test]
fn unusable_keys_are_reported() {
    let list = |rest: &str| plain().head(&key(rest));
    let aes = list("METHOD=AES-128,URI=\"k\"");
    let of = |name: &str, answer: Answer, expect: Expect| {
        Case::new(name, site(&aes, |n| Some((0, n))).answers("k", answer), expect)
    };
    let drm = || fails_with_cause(&[Cause::Encrypted], &["encrypted", "DRM"]);
    let skd =
        "METHOD=SAMPLE-AES,URI=\"skd://abc\",KEYFORMAT=\"com.apple.streamingkeydelivery\",KEYFORMATVERSIONS=\"1\"";
    let widevine = "METHOD=SAMPLE-AES-CTR,URI=\"data:text/plain;base64,AAAA\",\
                    KEYFORMAT=\"urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed\"";
    let session = "#EXT-X-SESSION-KEY:METHOD=SAMPLE-AES,URI=\"skd://x\",KEYFORMAT=\"com.apple.streamingkeydelivery\"\n";
    let late = plain().before(3, &key("METHOD=AES-128,URI=\"k\""));
    let second_half = || Expect::Shows { seconds: all([secs(BASE, 0..6), gap(6)]), runs: None };
    run(vec![
        of("403", Answer::status(403), fails_with_cause(&[Cause::Forbidden, Cause::Encrypted], &["403"])),
        of(
            "401",
            Answer::status(401),
            fails_with_cause(&[Cause::NotAuthorized, Cause::Encrypted], &["401", "log in", "password", "login"]),
        ),
        of("404", Answer::status(404), fails(&["404"])),
        of("503", Answer::status(503), fails(&["503"])),
        of("too short", Answer::bytes(&b"short"[..]), fails(&["key"])),
        of("empty", Answer::bytes(&b""[..]), fails(&["key"])),
        of("a page", Answer::page("<html>who are you?</html>"), fails(&["key"])),
        // The decrypted bytes are garbage, and it is unknown whether the key or the segment is wrong.
        of("another key", Answer::bytes(KEYS[1]), or(fails(&[""]), counts(0..=0, 12..=12))),
        Case::new(
            "refused in the middle",
            site(&late, |n| (n >= 3).then_some((0, n))).answers("k", Answer::status(403)),
            or(second_half(), fails_after(6..=6, &["403"])),
        ),
        Case::new("without an address", Site::of(&list("METHOD=AES-128")), fails(&["damaged playlist"])),
        Case::new(
            "an invalid vector",
            site(&list("METHOD=AES-128,URI=\"k0\",IV=0xZZ"), |n| Some((0, n))),
            fails(&["damaged playlist"]),
        ),
        Case::new("FairPlay", Site::of(&list(skd)), drm()),
        Case::new("SAMPLE-AES", Site::of(&list("METHOD=SAMPLE-AES,URI=\"k0\"")), drm()),
        Case::new("SAMPLE-AES-CTR", Site::of(&list(widevine)), drm()),
        Case::new(
            "a method of the future",
            Site::of(&list("METHOD=AES-512,URI=\"k0\"")),
            fails(&["encrypted", "AES-512"]),
        ),
        Case::new(
            "DRM of a master",
            Site::of(&list(skd)).text("m.m3u8", master(session, &[("BANDWIDTH=900000", "x.m3u8")])),
            drm(),
        )
        .at("m.m3u8"),
        Case::new(
            "DRM in the second half",
            Site::of(&plain().before(3, &key(skd))),
            or(second_half(), fails_after(6..=6, &["encrypted", "DRM"])),
        ),
    ]);
}
