//! Sessions of browsers, whose event streams and pictures cannot send a token.
//!
//! A session is a cookie that names a role and an end, signed with a key made from the token it was exchanged for. Nothing
//! is kept here, so that the page on a wall goes on after the server was started again; another token ends all sessions
//! of the old one. Those that were left by "log out" are remembered until they would have ended.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::Role;
use super::tokens::Tokens;

/// How long a session lasts, seconds: broadcasts are watched for weeks.
pub(super) const LIFE_S: u64 = 30 * 24 * 3600;

/// Sessions that were left and not over yet. When there are more, those that end first are forgotten.
const LEFT_MAX: usize = 1024;

const NONCE: usize = 16;

/// Role, end and nonce: what is signed.
const SIGNED: usize = 1 + 8 + NONCE;

#[derive(Default)]
pub(super) struct Sessions {
    /// Nonce → end of sessions that were left.
    left: Mutex<HashMap<[u8; NONCE], u64>>,
}

struct Claim {
    role: Role,
    ends_s: u64,
    nonce: [u8; NONCE],
}

impl Sessions {
    /// The cookie's value for `role`; [`None`] when the role has no token or the system gives no random numbers.
    pub fn make(&self, tokens: &Tokens, role: Role, now_s: u64) -> Option<String> {
        let key = tokens.key(role)?;
        let mut nonce = [0; NONCE];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut text = vec![letter(role)];
        text.extend((now_s + LIFE_S).to_be_bytes());
        text.extend(nonce);
        let signature = hmac::sign(&key, &text);
        text.extend(signature.as_ref());
        Some(BASE64.encode(text))
    }

    /// The role of a cookie's value, if it is ours, not over and not left.
    pub fn role(&self, tokens: &Tokens, value: &str, now_s: u64) -> Option<Role> {
        let claim = read(tokens, value)?;
        let left = self.left.lock().unwrap_or_else(|e| e.into_inner());
        (now_s < claim.ends_s && !left.contains_key(&claim.nonce)).then_some(claim.role)
    }

    /// Ends the session of a cookie's value.
    pub fn leave(&self, tokens: &Tokens, value: &str, now_s: u64) {
        let Some(claim) = read(tokens, value) else { return };
        let mut left = self.left.lock().unwrap_or_else(|e| e.into_inner());
        left.retain(|_, ends_s| *ends_s > now_s);
        if left.len() >= LEFT_MAX
            && let Some(first) = left.iter().min_by_key(|(_, ends_s)| **ends_s).map(|(nonce, _)| *nonce)
        {
            left.remove(&first);
        }
        left.insert(claim.nonce, claim.ends_s);
    }
}

const fn letter(role: Role) -> u8 {
    match role {
        Role::Read => b'r',
        Role::Admin => b'a',
    }
}

fn read(tokens: &Tokens, value: &str) -> Option<Claim> {
    let bytes = BASE64.decode(value).ok()?;
    let (signed, signature) = bytes.split_at_checked(SIGNED)?;
    let role = [Role::Read, Role::Admin].into_iter().find(|role| letter(*role) == signed[0])?;
    hmac::verify(&tokens.key(role)?, signed, signature).ok()?;
    let ends_s = u64::from_be_bytes(signed[1..9].try_into().ok()?);
    Some(Claim { role, ends_s, nonce: signed[9..].try_into().ok()? })
}
