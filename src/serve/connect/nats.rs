//! The login to a NATS server, for every connection to one.

use async_nats::ConnectOptions;
use url::Url;

use super::{filled, tls};
use crate::config::{RecordKind, Secret, SecretSource, SinkSettings};

/// Address and login of a server, with its secrets read.
pub(crate) struct NatsLogin {
    url: Url,
    user: Option<String>,
    secret: Secret,
    credentials: Option<Credentials>,
    tls: Option<rustls::ClientConfig>,
    name: String,
    timeout: std::time::Duration,
}

impl NatsLogin {
    /// Reads the secrets and certificates. `name` is that of the connection, for the operator of the server.
    ///
    /// # Errors
    /// Cause and advice for a secret or a certificate that cannot be used.
    pub(crate) fn open(url: &Url, settings: &SinkSettings, name: String) -> Result<Self, String> {
        let SinkSettings { user, secret, credentials, tls, timeout, .. } = settings;
        Ok(Self {
            url: url.clone(),
            user: user.clone(),
            secret: secret.as_ref().map(|secret| secret.read()).transpose()?.unwrap_or_default(),
            credentials: credentials.as_ref().map(Credentials::read).transpose()?,
            tls: (url.scheme() == "tls").then(|| tls::client(tls)).transpose()?,
            name,
            timeout: *timeout,
        })
    }

    /// The address.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The host, for messages.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The options of a connection.
    pub(crate) fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new().name(&self.name).connection_timeout(self.timeout);
        if let Some(tls) = &self.tls {
            options = options.require_tls(true).tls_client_config(tls.clone());
        }
        if let Some(credentials) = &self.credentials {
            return credentials.add_to(options);
        }
        match (&self.user, self.secret.lines.first()) {
            (Some(user), secret) => options.user_and_password(user.clone(), secret.cloned().unwrap_or_default()),
            (None, Some(token)) => options.token(token.clone()),
            (None, None) => options,
        }
    }
}

/// A login with a key pair: the key signs a challenge of the server and is never sent.
struct Credentials {
    /// The content of the file.
    text: String,
    _secret: Secret,
}

impl Credentials {
    /// # Errors
    /// Cause and advice, without the content.
    fn read(source: &SecretSource) -> Result<Self, String> {
        let secret = source.read()?;
        // The client wants a line break behind the last line too.
        let text = secret.lines.iter().flat_map(|line| [line, "\n"]).collect();
        let credentials = Self { text, _secret: secret };
        let is_usable = match credentials.seed() {
            Some(seed) => nkeys::KeyPair::from_seed(seed).is_ok(),
            None => ConnectOptions::with_credentials(&credentials.text).is_ok(),
        };
        if is_usable {
            return Ok(credentials);
        }
        let advice = "give a .creds file, or the seed of a user (SU…)";
        Err(format!("the credentials are neither those of a NATS user nor the seed of an nkey; {advice}"))
    }

    /// The seed, if the file has nothing else.
    fn seed(&self) -> Option<&str> {
        let text = self.text.trim_end();
        (text.starts_with("SU") && !text.contains('\n')).then_some(text)
    }

    fn add_to(&self, options: ConnectOptions) -> ConnectOptions {
        match self.seed() {
            Some(seed) => options.nkey(seed.to_owned()),
            None => options.credentials(&self.text).expect("they were checked when they were read"),
        }
    }
}

/// The subject of records of a kind.
pub(crate) fn subject(template: &str, instance: &str, stream: &str, kind: RecordKind) -> String {
    // A full stop separates the parts of a subject.
    let part = |text: &str| text.replace('.', "_");
    filled(template, &part(instance), &part(stream), kind.as_str())
}

/// The cause of a connection that failed, with advice if the server refuses the login.
pub(crate) fn login_cause(text: &str) -> String {
    if text.to_lowercase().contains("authorization") {
        return format!("the server refuses the login ({text}); check user and secret_file");
    }
    text.to_owned()
}
