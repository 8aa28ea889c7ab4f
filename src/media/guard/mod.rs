//! The source policy: the schemes, addresses and folders that are allowed for sources added while the program runs.
//!
//! A user who may add a stream chooses what this machine connects to, and could reach hosts that only this machine can reach. A
//! [`SourcePolicy`] defines what is allowed, and a `LoopbackProxy` enforces it for GStreamer: the proxy makes every connection of
//! a guarded stream, to an address that was checked. GStreamer itself would resolve names again and follow redirects. Streams from
//! the command line and the configuration file are not guarded.

mod address;
#[cfg(feature = "gst")]
pub(super) mod connect;
#[cfg(feature = "gst")]
pub(super) mod digest;
#[cfg(feature = "gst")]
pub(super) mod proxy;
#[cfg(feature = "gst")]
mod relay;
#[cfg(feature = "gst")]
mod web;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::lookup_host;
use tokio::runtime::{Handle, Runtime};
use tokio::time::timeout;
use url::{Host, Url};

use serde::{Deserialize, Serialize};

use crate::registry;
use crate::uri::Kind;
use touchline_core::cause::Cause;
use touchline_core::error::{Error, Result};
#[cfg(feature = "gst")]
use touchline_core::item::End;
use touchline_core::{redact, userinfo};

/// Time limit for resolving a name.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// The most addresses of one name that are used.
const ADDRESSES_MAX: usize = 16;

/// Threads of the runtime: they mostly wait, and do TLS.
const THREADS: usize = 2;

/// Resolves host names.
pub trait Resolve: Send + Sync {
    /// The addresses of `host`. Blocks.
    ///
    /// # Errors
    /// When the name cannot be resolved.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// Resolves names with the system's resolver.
struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // The system's own time limit may be half a minute and cannot be changed.
        let found = runtime()?.block_on(async { timeout(RESOLVE_LIMIT, lookup_host((host, 0))).await })??;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// The runtime of all web sources and lookups.
///
/// # Errors
/// When the system has no threads left.
pub(super) fn runtime() -> io::Result<&'static Handle> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.handle());
    }
    let made =
        tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).thread_name("web").enable_all().build()?;
    // A second runtime, made concurrently, is dropped here. That must not happen on a worker of a runtime, and none calls this.
    Ok(RUNTIME.get_or_init(|| made).handle())
}

/// Why a source is rejected or cannot be opened. The texts are redacted, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// [`Cause::Refused`] if the policy rejects it, otherwise the type of the failure.
    pub kind: Cause,
    /// What failed.
    pub cause: String,
    /// What to do.
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

/// The sources that are allowed.
#[derive(Clone)]
pub struct SourcePolicy {
    schemes: Vec<String>,
    allow: Vec<IpNet>,
    /// Canonical paths.
    folders: Vec<PathBuf>,
    /// Every address is allowed: the source comes from the command line or the configuration.
    is_unrestricted: bool,
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
            is_unrestricted: false,
            resolver: Arc::new(SystemResolver),
        }
    }
}

/// The section `[sources]` of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcesFile {
    /// Allowed schemes; `None`: all. `file` also needs a folder.
    pub schemes: Option<Vec<String>>,
    /// Allowed networks besides the public internet: CIDRs or addresses.
    #[serde(default)]
    pub allow_addresses: Vec<String>,
    /// Folders whose files are allowed.
    #[serde(default)]
    pub folders: Vec<PathBuf>,
}

impl SourcePolicy {
    /// A policy that allows every address. For unguarded sources that need the proxy because GStreamer cannot connect to them itself.
    #[cfg(feature = "gst")]
    pub(super) fn unrestricted() -> Self {
        Self { is_unrestricted: true, ..Self::default() }
    }

    /// The policy of `[sources]` in the configuration file.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the invalid scheme, network or folder.
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
                Error::Usage(format!("[sources] allow_addresses: {text:?} is not a network; write it as 10.20.0.0/16"))
            })?);
        }
        for folder in &file.folders {
            policy.folders.push(folder.canonicalize().map_err(|e| {
                Error::Usage(format!("[sources] folders: {}: {e}; give existing folders", folder.display()))
            })?);
        }
        Ok(policy)
    }

    /// The section from which [`SourcePolicy::new`] makes the same policy.
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

    /// Checks whether a stream that plays `uri` is allowed. Resolves its host, for up to five seconds. Every connection of the stream
    /// is checked again, because names and files change.
    ///
    /// # Errors
    /// If the policy rejects the source or the address is invalid.
    pub fn check(&self, uri: &str) -> Result<(), Refusal> {
        // Masks the credentials in the refusal.
        drop(redact::remember(uri));
        let (scheme, _) = uri.split_once("://").unwrap_or(("file", uri));
        let scheme = scheme.to_ascii_lowercase();
        self.check_scheme(&scheme)?;
        match registry::by_scheme(&scheme) {
            Some(Kind::File) => self.check_file(uri).map(|_| ()),
            Some(kind) if !kind.is_network() => Ok(()),
            _ => {
                let target = Target::parse(uri)?;
                target.reject_ambiguous()?;
                if target.binds() { self.check_bind(&target) } else { self.addresses(&target).map(|_| ()) }
            }
        }
    }

    /// As [`SourcePolicy::check`], for sources that GStreamer opens itself. Returns the URI with the checked address or path in
    /// place of the name, or `None` if nothing needs replacing.
    ///
    /// # Errors
    /// As [`SourcePolicy::check`].
    #[cfg(feature = "gst")]
    pub(super) fn pinned_uri(&self, uri: &str) -> Result<Option<String>, Refusal> {
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
                target.reject_ambiguous()?;
                if target.binds() {
                    self.check_bind(&target)?;
                    return Ok(None);
                }
                let addresses = self.addresses(&target)?;
                // The name stays, because the certificate is checked against it. That also detects a name that was redirected since.
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

    /// Whether connections to `address` are allowed.
    fn allows(&self, address: IpAddr) -> bool {
        if self.is_unrestricted {
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
            format!("{host} resolves to {address}, which is not allowed here")
        };
        Refusal::new(cause, "sources must be on the public internet, or in [sources] allow_addresses")
    }

    /// The addresses of a target, all of which are allowed.
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
        // All must be allowed, because a connection may use any of them.
        match found.iter().find(|address| !self.allows(**address)) {
            Some(bad) => Err(Self::refuse_address(name, bad.to_canonical())),
            None => Ok(found.iter().take(ADDRESSES_MAX).map(|a| SocketAddr::new(*a, target.port)).collect()),
        }
    }

    /// Checks whether listening on `target` is allowed: only on addresses in `allow_addresses`.
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
        // The same answer for all paths outside, so that it does not reveal which files exist.
        let outside = || {
            let advice = "files must lie below one of [sources] folders of the configuration file";
            Refusal::new("this file is not allowed here", advice)
        };
        let path = path.filter(|path| path.is_absolute()).ok_or_else(outside)?;
        let real = path.canonicalize().map_err(|_| self.missing(&path).unwrap_or_else(outside))?;
        if !self.folders.iter().any(|folder| real.starts_with(folder)) {
            return Err(outside());
        }
        // Opening a FIFO blocks until a program writes into it, and a device may be anything.
        if real.metadata().is_ok_and(|meta| !meta.is_file()) {
            let advice = "give a file that is a recording";
            return Err(Refusal::new("the path is a folder, a FIFO, a socket or a device, not a file", advice));
        }
        Ok(real)
    }

    /// The refusal for a missing file, if its path lies below one of the folders.
    fn missing(&self, path: &Path) -> Option<Refusal> {
        let parent = path.parent()?.canonicalize().ok()?;
        let inside = self.folders.iter().any(|folder| parent.starts_with(folder));
        inside.then(|| Refusal::of(Cause::NotFound, "no such file", "check the path"))
    }
}

/// The parsed destination of a URI.
#[derive(Clone, Debug)]
pub(super) struct Target {
    url: Url,
    scheme: String,
    /// Host name or address; empty: all addresses of this machine.
    host: String,
    port: u16,
}

impl Target {
    pub(super) fn parse(uri: &str) -> Result<Self, Refusal> {
        let wrong = || Refusal::new("this is not a valid stream address", "check host and port of the URL");
        // A part of a password must not be resolved as a host.
        let unclear = || Refusal::new("the address is ambiguous", userinfo::ADVICE);
        let uri = userinfo::canonical(uri).ok_or_else(unclear)?;
        let (scheme, rest) = uri.split_once("://").ok_or_else(wrong)?;
        let scheme = scheme.to_ascii_lowercase();
        // srt://:9000 and udp://@:5000 are valid without a host, but the parser requires one.
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

    /// Rejects a URI that another parser could read differently or that has more than one address.
    fn reject_ambiguous(&self) -> Result<(), Refusal> {
        let advice = "write each key once, and the address before the question mark";
        let mut seen = Vec::new();
        for (key, _) in self.url.query_pairs().filter(|_| matches!(self.scheme.as_str(), "srt" | "udp")) {
            let key = key.to_ascii_lowercase();
            if key.starts_with("local") || seen.contains(&key) {
                return Err(Refusal::new(format!("the parameter {key:?} is not allowed in this address"), advice));
            }
            seen.push(key);
        }
        Ok(())
    }

    /// Whether the source listens instead of connecting.
    fn binds(&self) -> bool {
        let mode = self.url.query_pairs().find(|(key, _)| key == "mode").map(|(_, mode)| mode.into_owned());
        match self.scheme.as_str() {
            "udp" => true,
            "srt" => self.host.is_empty() || mode.is_some_and(|mode| mode != "caller"),
            _ => false,
        }
    }

    /// The URI with `address` in place of the name.
    #[cfg(feature = "gst")]
    fn pinned(&self, address: SocketAddr) -> Result<String, Refusal> {
        let mut url = self.url.clone();
        let wrong = |()| Refusal::new("this is not a valid stream address", "check host and port of the URL");
        url.set_ip_host(address.ip()).map_err(wrong)?;
        url.set_port(Some(address.port())).map_err(wrong)?;
        Ok(url.into())
    }
}

#[cfg(test)]
mod tests;
