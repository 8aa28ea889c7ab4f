//! Sessions of browsers, whose event streams and pictures cannot send a token.
//!
//! A session is a cookie with a role and an expiry, signed with a key derived from the token. Changing the token ends
//! all its sessions. Only log-outs are stored, until their sessions would have expired. With a store, log-outs and
//! sessions survive a restart, so a page on a wall continues. Without one, the key includes a random salt of the
//! process and all sessions end with it: otherwise a session would be valid again after its log-out.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::oneshot;

use super::Role;
use super::tokens::Tokens;

/// Lifetime of a session, seconds: pages stay open for weeks.
pub(super) const LIFE_S: u64 = 30 * 24 * 3600;

/// Most log-outs kept per role. Beyond this all sessions of the role end: a session must never be valid again after its
/// log-out.
const LEFT_MAX: usize = 1024;

/// Length of a nonce, bytes.
pub const NONCE: usize = 16;

/// Length of the signed part: role, expiry and nonce.
const SIGNED: usize = 1 + 8 + NONCE;

/// A session that was logged out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedSession {
    /// Its role.
    pub role: Role,
    /// Its nonce.
    pub nonce: [u8; NONCE],
    /// Its expiry, seconds since 1970-01-01 UTC.
    pub ends_s: u64,
}

/// All log-outs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOuts {
    /// Sessions that were logged out.
    pub left: Vec<RevokedSession>,
    /// Sessions of a role that began at or before this time are invalid; seconds since 1970-01-01 UTC.
    pub not_before: Vec<(Role, u64)>,
}

/// Stores log-outs.
pub trait SessionArchive: Send + Sync {
    /// Stores a log-out. `kept` gets a message when it is on the disk, and is dropped if it cannot be stored.
    fn left(&self, session: RevokedSession, kept: oneshot::Sender<()>);
    /// Stores that sessions of `role` that began at or before `unix_s` are invalid. Their log-outs need not be kept.
    fn not_before(&self, role: Role, unix_s: u64);
}

pub(super) struct Sessions {
    state: Mutex<SessionState>,
    /// Part of every signature.
    salt: [u8; NONCE],
    archive: Option<Arc<dyn SessionArchive>>,
}

#[derive(Default)]
struct SessionState {
    /// Nonce → session.
    left: HashMap<[u8; NONCE], RevokedSession>,
    not_before: HashMap<Role, u64>,
}

impl Sessions {
    /// Sessions that end with the process.
    pub fn new() -> Self {
        let mut salt = [0; NONCE];
        if SystemRandom::new().fill(&mut salt).is_err() {
            // `make` fails as well.
            tracing::warn!("the system provides no random numbers: logins fail");
        }
        Self { state: Mutex::default(), salt, archive: None }
    }

    /// Sessions that outlive the process; `kept` are the stored log-outs.
    pub fn with_archive(archive: Arc<dyn SessionArchive>, kept: LogOuts) -> Self {
        let LogOuts { left, not_before } = kept;
        let left = left.into_iter().map(|session| (session.nonce, session)).collect();
        let state = SessionState { left, not_before: not_before.into_iter().collect() };
        Self { state: Mutex::new(state), salt: [0; NONCE], archive: Some(archive) }
    }

    fn state(&self) -> parking_lot::MutexGuard<'_, SessionState> {
        self.state.lock()
    }

    /// A cookie value for `role`. `None` if the role has no token or the system provides no random numbers.
    pub fn make(&self, tokens: &Tokens, role: Role, now_s: u64) -> Option<String> {
        let key = tokens.key(role)?;
        let mut nonce = [0; NONCE];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let not_before_s = self.state().not_before.get(&role).copied();
        let begins_s = now_s.max(not_before_s.map_or(0, |s| s + 1));
        let mut text = vec![letter(role)];
        text.extend((begins_s + LIFE_S).to_be_bytes());
        text.extend(nonce);
        let signature = hmac::sign(&key, &self.signed(&text));
        text.extend(signature.as_ref());
        Some(BASE64.encode(text))
    }

    /// The role of a cookie value, if it is valid, not expired and not logged out.
    pub fn role(&self, tokens: &Tokens, value: &str, now_s: u64) -> Option<Role> {
        let RevokedSession { role, nonce, ends_s } = self.read(tokens, value)?;
        let state = self.state();
        let is_over = state.not_before.get(&role).is_some_and(|not_before| ends_s <= not_before + LIFE_S);
        (now_s < ends_s && !is_over && !state.left.contains_key(&nonce)).then_some(role)
    }

    /// Logs a session out. The receiver gets a message when that is on the disk. `None` without a store.
    pub fn leave(&self, tokens: &Tokens, value: &str, now_s: u64) -> Option<oneshot::Receiver<()>> {
        let session = self.read(tokens, value)?;
        let mut state = self.state();
        state.left.retain(|_, left| left.ends_s > now_s);
        let of_role = state.left.values().filter(|left| left.role == session.role).count();
        if of_role >= LEFT_MAX {
            let role = session.role.as_str();
            tracing::warn!("{LEFT_MAX} log-outs: all sessions of the role {role} end; log in again");
            state.left.retain(|_, left| left.role != session.role);
            state.not_before.insert(session.role, now_s);
            if let Some(archive) = &self.archive {
                archive.not_before(session.role, now_s);
            }
        }
        state.left.insert(session.nonce, session);
        let (kept_to, kept) = oneshot::channel();
        self.archive.as_ref()?.left(session, kept_to);
        Some(kept)
    }

    fn signed(&self, text: &[u8]) -> Vec<u8> {
        [&self.salt, text].concat()
    }

    fn read(&self, tokens: &Tokens, value: &str) -> Option<RevokedSession> {
        let bytes = BASE64.decode(value).ok()?;
        let (signed, signature) = bytes.split_at_checked(SIGNED)?;
        let role = [Role::Read, Role::Admin].into_iter().find(|role| letter(*role) == signed[0])?;
        hmac::verify(&tokens.key(role)?, &self.signed(signed), signature).ok()?;
        let ends_s = u64::from_be_bytes(signed[1..9].try_into().ok()?);
        Some(RevokedSession { role, ends_s, nonce: signed[9..].try_into().ok()? })
    }
}

const fn letter(role: Role) -> u8 {
    match role {
        Role::Read => b'r',
        Role::Admin => b'a',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::access::TokenSource;

    fn tokens() -> Tokens {
        let source = |text: &str| TokenSource::Environment { name: "T", text: text.into() };
        Tokens::read(Some(&source("admin-token-0123456789")), Some(&source("reader-token-0123456789"))).unwrap()
    }

    /// Keeps log-outs in memory.
    #[derive(Default)]
    struct MemoryArchive(Mutex<LogOuts>);

    impl SessionArchive for MemoryArchive {
        fn left(&self, session: RevokedSession, kept: oneshot::Sender<()>) {
            self.0.lock().left.push(session);
            kept.send(()).unwrap();
        }

        fn not_before(&self, role: Role, unix_s: u64) {
            let mut kept = self.0.lock();
            kept.left.retain(|left| left.role != role);
            kept.not_before.push((role, unix_s));
        }
    }

    #[test]
    fn a_session_stays_invalid_after_its_log_out() {
        let tokens = tokens();
        let archive = Arc::<MemoryArchive>::default();
        let sessions = Sessions::with_archive(archive.clone(), LogOuts::default());
        let admin = sessions.make(&tokens, Role::Admin, 1000).unwrap();
        let admin_too = sessions.make(&tokens, Role::Admin, 1000).unwrap();
        sessions.leave(&tokens, &admin, 1000).unwrap().try_recv().unwrap();
        let readers: Vec<String> =
            (0..LEFT_MAX + 10).map(|_| sessions.make(&tokens, Role::Read, 1000).unwrap()).collect();
        let stays = sessions.make(&tokens, Role::Read, 1000).unwrap();
        for reader in &readers {
            sessions.leave(&tokens, reader, 1001);
        }
        let again = Sessions::with_archive(archive.clone(), archive.0.lock().clone());
        for sessions in [&sessions, &again] {
            assert_eq!(sessions.role(&tokens, &admin, 1002), None);
            assert_eq!(
                sessions.role(&tokens, &admin_too, 1002),
                Some(Role::Admin),
                "sessions of another role stay valid"
            );
            assert!(readers.iter().all(|reader| sessions.role(&tokens, reader, 1002).is_none()));
            assert_eq!(sessions.role(&tokens, &stays, 1002), None, "too many log-outs end all sessions of the role");
            let new = sessions.make(&tokens, Role::Read, 1001).unwrap();
            assert_eq!(sessions.role(&tokens, &new, 1001), Some(Role::Read), "a new session is valid immediately");
        }
        assert!(sessions.state().left.len() <= LEFT_MAX + 1, "memory is bounded");
    }

    #[test]
    fn without_a_store_sessions_end_with_the_process() {
        let tokens = tokens();
        let (before, after) = (Sessions::new(), Sessions::new());
        let value = before.make(&tokens, Role::Admin, 1000).unwrap();
        assert_eq!(before.role(&tokens, &value, 1001), Some(Role::Admin));
        assert_eq!(after.role(&tokens, &value, 1001), None);
        assert!(before.leave(&tokens, &value, 1001).is_none(), "there is no store");
        assert_eq!(before.role(&tokens, &value, 1001), None);
    }
}
