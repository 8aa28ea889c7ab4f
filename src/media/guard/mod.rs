//! What a source may be that somebody gives to the running program: which schemes, which addresses, which folders.
//!
//! Whoever may add a stream chooses what this machine connects to, and so could reach what only this machine reaches. A
//! [`SourcePolicy`] says what may be; a `Passage` holds GStreamer to it: of a guarded stream every connection is made by
//! the passage, to an address that was checked, and not by GStreamer, which would resolve names again and follow whatever a
//! server tells it. Streams of the command line and the configuration file are their owner's and are not guarded.

mod address;
#[cfg(feature = "gst")]
pub(super) mod connect;
#[cfg(feature = "gst")]
pub(super) mod digest;
#[cfg(feature = "gst")]
pub(super) mod passage;
#[cfg(feature = "gst")]
mod relay;
#[cfg(feature = "gst")]
mod web;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use ipnet::IpNet;
use url::{Host, Url};

use serde::{Deserialize, Serialize};

use crate::registry;
use crate::uri::Kind;
use touchline_core::cause::Cause;
use touchline_core::error::{Error, Result};
#[cfg(feature = "gst")]
use touchline_core::item::End;
use touchline_core::{redact, userinfo};

/// How long a name may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// Addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 16;

/// Turns names into addresses.
pub trait Resolve: Send + Sync {
    /// # Errors
    /// When the name cannot be resolved.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// As the system resolves names.
struct System;

impl Resolve for System {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // The system's own limit may be half a minute, and cannot be changed.
        let (to, from) = mpsc::channel();
        let name = host.to_owned();
        std::thread::Builder::new().name("resolve".into()).spawn(move || {
            let found = (name.as_str(), 0).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect::<Vec<_>>());
            // Nobody listens any more when it took too long.
            let _ = to.send(found);
        })?;
        from.recv_timeout(RESOLVE_LIMIT).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Why a source may not be, or is not there. The texts are redacted, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// [`Cause::Refused`] when the policy says so, else what is wrong.
    pub kind: Cause,
    pub cause: String,
    pub advice: String,
}

impl Refusal {
    pub(super) fn new(cause: impl AsRef<str>, advice: &str) -> Self {
        Self::of(Cause::Refused, cause, advice)
    }

    pub(super) fn of(kind: Cause, cause: impl AsRef<str>, advice: &str) -> Self {
        Self { kind, cause: redact::text(cause.as_ref()), advice: advice.to_owned() }
    }

    #[cfg(feature = "gst")]
    pub(super) fn end(&self) -> End {
        End::Failed { kind: self.kind, cause: self.cause.clone(), advice: self.advice.clone() }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause, self.advice)
    }
}

/// What a source may be.
#[derive(Clone)]
pub struct SourcePolicy {
    schemes: Vec<String>,
    allow: Vec<IpNet>,
    /// Canonical.
    folders: Vec<PathBuf>,
    /// Every address may be connected to: the source is its owner's.
    is_owners: bool,
    resolver: Arc<dyn Resolve>,
}

impl fmt::Debug for SourcePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourcePolicy")
            .field("schemes", &self.schemes)
            .field("allow", &self.allow)
            .field("folders", &self.folders)
            .finish_non_exhaustive()
    }
}

impl Default for SourcePolicy {
    fn default() -> Self {
        Self {
            schemes: registry::api_schemes().into_iter().map(String::from).collect(),
            allow: Vec::new(),
            folders: Vec::new(),
            is_owners: false,
            resolver: Arc::new(System),
        }
    }
}

/// `[sources]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcesFile {
    /// `None`: all but `file` and `testsrc`.
    pub schemes: Option<Vec<String>>,
    /// CIDRs.
    #[serde(default)]
    pub allow_addresses: Vec<String>,
    #[serde(default)]
    pub folders: Vec<PathBuf>,
}

impl SourcePolicy {
    /// For a source that goes through a passage for GStreamer's sake: nothing is refused that the web leads to.
    #[cfg(feature = "gst")]
    pub(super) fn owners() -> Self {
        Self { is_owners: true, ..Self::default() }
    }

    /// From `[sources]` of the configuration file.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the scheme, the network or the folder that cannot be.
    pub fn new(file: &SourcesFile) -> Result<Self> {
        let mut policy = Self::default();
        if let Some(schemes) = &file.schemes {
            let known = registry::schemes();
            if let Some(wrong) = schemes.iter().find(|s| !known.contains(&s.as_str())) {
                let known = known.join(", ");
                return Err(Error::Usage(format!("[sources] schemes: {wrong:?} is not one of {known}")));
            }
            policy.schemes.clone_from(schemes);
        }
        for text in &file.allow_addresses {
            let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            policy.allow.push(net.map_err(|_| {
                Error::Usage(format!("[sources] allow_addresses: {text:?} is no network; write it as 10.20.0.0/16"))
            })?);
        }
        for folder in &file.folders {
            policy.folders.push(folder.canonicalize().map_err(|e| {
                Error::Usage(format!("[sources] folders: {}: {e}; give folders that are there", folder.display()))
            })?);
        }
        Ok(policy)
    }

    /// What [`SourcePolicy::new`] makes the same policy from.
    pub fn file(&self) -> SourcesFile {
        SourcesFile {
            schemes: Some(self.schemes.clone()),
            allow_addresses: self.allow.iter().map(ToString::to_string).collect(),
            folders: self.folders.clone(),
        }
    }

    /// Resolves names with `resolver`.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolve>) -> Self {
        self.resolver = resolver;
        self
    }

    /// Whether a stream may be added that plays `uri`. Resolves its host, for up to five seconds. The same is checked again at
    /// every connection of the stream, since names and files change.
    ///
    /// # Errors
    /// What may not be, or what is wrong with it.
    pub fn check(&self, uri: &str) -> Result<(), Refusal> {
        // For a refusal of it.
        drop(redact::remember(uri));
        let (scheme, _) = uri.split_once("://").unwrap_or(("file", uri));
        let scheme = scheme.to_ascii_lowercase();
        self.check_scheme(&scheme)?;
        match registry::by_scheme(&scheme) {
            Some(Kind::File) => self.check_file(uri).map(|_| ()),
            Some(kind) if !kind.is_network() => Ok(()),
            _ => {
                let target = Target::parse(uri)?;
                target.says_one_thing()?;
                if target.binds() { self.check_bind(&target) } else { self.addresses(&target).map(|_| ()) }
            }
        }
    }

    /// As [`SourcePolicy::check`], for what GStreamer opens by itself: the URI with what was checked in place of what could
    /// change, and `None` where nothing could.
    ///
    /// # Errors
    /// As [`SourcePolicy::check`].
    #[cfg(feature = "gst")]
    pub(super) fn place(&self, uri: &str) -> Result<Option<String>, Refusal> {
        let (scheme, _) = uri.split_once("://").unwrap_or(("file", uri));
        let scheme = scheme.to_ascii_lowercase();
        self.check_scheme(&scheme)?;
        match scheme.as_str() {
            "testsrc" => Ok(None),
            "file" => {
                let real = self.check_file(uri)?;
                let wrong = |()| Refusal::new("this file is not allowed here", "check its path");
                Url::from_file_path(real).map(|url| Some(url.into())).map_err(wrong)
            }
            _ => {
                let target = Target::parse(uri)?;
                target.says_one_thing()?;
                if target.binds() {
                    self.check_bind(&target)?;
                    return Ok(None);
                }
                let addresses = self.addresses(&target)?;
                // The certificate is checked against the name: whoever pointed it elsewhere since has none for it.
                let keeps_name = target.scheme == "rtmps";
                addresses.first().filter(|_| !keeps_name).map(|address| target.pinned(*address)).transpose()
            }
        }
    }

    fn check_scheme(&self, scheme: &str) -> Result<(), Refusal> {
        if self.schemes.iter().any(|s| s == scheme) {
            return Ok(());
        }
        let cause = format!("sources of the scheme {scheme} are not allowed here");
        Err(Refusal::new(cause, "choose another, or name it in [sources] schemes of the configuration file"))
    }

    /// Whether `address` may be connected to.
    fn allows(&self, address: IpAddr) -> bool {
        if self.is_owners {
            return true;
        }
        let address = address.to_canonical();
        let is_named = |net: &IpNet| {
            let exactly = net.prefix_len() == net.max_prefix_len();
            net.contains(&address) && (exactly || !address::is_metadata(address))
        };
        if self.allow.iter().any(is_named) {
            return true;
        }
        match address::embedded_v4(address) {
            Some(v4) => self.allows(v4.into()),
            None => address::is_public(address),
        }
    }

    fn refuse_address(host: &str, address: IpAddr) -> Refusal {
        let cause = if host == address.to_string() {
            format!("the address {address} is not allowed here")
        } else {
            format!("{host} leads to {address}, which is not allowed here")
        };
        Refusal::new(cause, "sources must be on the public internet, or in [sources] allow_addresses")
    }

    /// The addresses of a target, all of which may be connected to.
    fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
        let name = target.host.trim_start_matches('[').trim_end_matches(']');
        let found = match name.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(name).unwrap_or_default(),
        };
        if found.is_empty() {
            let advice = "check the host name and the network";
            return Err(Refusal::of(Cause::HostNotFound, "host not found", advice));
        }
        // All of them: of a name with a good and a bad address either might be taken.
        match found.iter().find(|address| !self.allows(**address)) {
            Some(bad) => Err(Self::refuse_address(name, bad.to_canonical())),
            None => Ok(found.iter().take(ADDRESSES_MAX).map(|a| SocketAddr::new(*a, target.port)).collect()),
        }
    }

    /// Whether this machine may listen where `target` says: only where an address of it was named.
    fn check_bind(&self, target: &Target) -> Result<(), Refusal> {
        let name = target.host.trim_start_matches('[').trim_end_matches(']');
        let address = if name.is_empty() { Ok(Ipv4Addr::UNSPECIFIED.into()) } else { name.parse::<IpAddr>() };
        let Ok(address) = address else {
            return Err(Refusal::new("a listening source needs an address", "write an address in place of the name"));
        };
        if self.allow.iter().any(|net| net.contains(&address.to_canonical())) {
            return Ok(());
        }
        let cause = format!("listening on {address} is not allowed here");
        Err(Refusal::new(cause, "name the address, or the multicast group, in [sources] allow_addresses"))
    }

    /// The real path of a file below one of the folders.
    fn check_file(&self, uri: &str) -> Result<PathBuf, Refusal> {
        let path = match uri.split_once("://") {
            Some(_) => Url::parse(uri).ok().and_then(|url| url.to_file_path().ok()),
            None => Some(PathBuf::from(uri)),
        };
        // One answer for all that lies outside, whether it is there or not: else files could be found out.
        let outside = || {
            let advice = "files must lie below one of [sources] folders of the configuration file";
            Refusal::new("this file is not allowed here", advice)
        };
        let path = path.filter(|path| path.is_absolute()).ok_or_else(outside)?;
        let real = path.canonicalize().map_err(|_| self.missing(&path).unwrap_or_else(outside))?;
        if !self.folders.iter().any(|folder| real.starts_with(folder)) {
            return Err(outside());
        }
        // Who opens a FIFO waits for somebody to write into it; a device may be anything.
        if real.metadata().is_ok_and(|meta| !meta.is_file()) {
            let advice = "give a file that is a recording";
            return Err(Refusal::new("what is there is a folder, a FIFO, a socket or a device, and no file", advice));
        }
        Ok(real)
    }

    /// What to say of a file that is not there: that, when it would lie inside.
    fn missing(&self, path: &Path) -> Option<Refusal> {
        let parent = path.parent()?.canonicalize().ok()?;
        let inside = self.folders.iter().any(|folder| parent.starts_with(folder));
        inside.then(|| Refusal::of(Cause::NotFound, "no such file", "check the path"))
    }
}

/// Where a URI leads, and what else it says.
#[derive(Clone, Debug)]
pub(super) struct Target {
    url: Url,
    scheme: String,
    /// Empty: all addresses of this machine.
    host: String,
    port: u16,
}

impl Target {
    pub(super) fn parse(uri: &str) -> Result<Self, Refusal> {
        let wrong = || Refusal::new("this is no address of a stream", "check host and port of the URL");
        // A piece of a password must not be resolved as a host.
        let unclear = || Refusal::new("the address is not clear", userinfo::ADVICE);
        let uri = userinfo::canonical(uri).ok_or_else(unclear)?;
        let (scheme, rest) = uri.split_once("://").ok_or_else(wrong)?;
        let scheme = scheme.to_ascii_lowercase();
        // srt://:9000 and udp://@:5000 name no host by right; the parser wants one.
        let (rest, is_anywhere) = match (scheme.as_str(), rest.strip_prefix('@').unwrap_or(rest)) {
            ("srt" | "udp", rest) if rest.starts_with(':') => (format!("0.0.0.0{rest}"), true),
            ("srt" | "udp", stripped) => (stripped.to_owned(), false),
            _ => (rest.to_owned(), false),
        };
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| wrong())?;
        let host = match url.host() {
            _ if is_anywhere => String::new(),
            Some(Host::Ipv6(v6)) => v6.to_string(),
            Some(host) => host.to_string(),
            None => return Err(wrong()),
        };
        let port = url.port_or_known_default().or_else(|| registry::default_port(&scheme));
        Ok(Self { port: port.ok_or_else(wrong)?, url, scheme, host })
    }

    /// Refuses a URI that others could read differently, or that names more than one address.
    fn says_one_thing(&self) -> Result<(), Refusal> {
        let advice = "write each key once, and the address before the question mark";
        let mut seen = Vec::new();
        for (key, _) in self.url.query_pairs().filter(|_| matches!(self.scheme.as_str(), "srt" | "udp")) {
            let key = key.to_ascii_lowercase();
            if key.starts_with("local") || seen.contains(&key) {
                return Err(Refusal::new(format!("{key:?} cannot stand here in an address of this kind"), advice));
            }
            seen.push(key);
        }
        Ok(())
    }

    /// Whether it waits for others to send, instead of connecting.
    fn binds(&self) -> bool {
        let mode = self.url.query_pairs().find(|(key, _)| key == "mode").map(|(_, mode)| mode.into_owned());
        match self.scheme.as_str() {
            "udp" => true,
            "srt" => self.host.is_empty() || mode.is_some_and(|mode| mode != "caller"),
            _ => false,
        }
    }

    /// The same with the address in place of the name.
    #[cfg(feature = "gst")]
    fn pinned(&self, address: SocketAddr) -> Result<String, Refusal> {
        let mut url = self.url.clone();
        let wrong = |()| Refusal::new("this is no address of a stream", "check host and port of the URL");
        url.set_ip_host(address.ip()).map_err(wrong)?;
        url.set_port(Some(address.port())).map_err(wrong)?;
        Ok(url.into())
    }
}

#[cfg(test)]
mod tests;
