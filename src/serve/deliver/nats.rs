//! NATS JetStream: each record is published on a subject of its stream and type, and acknowledged by the stream that keeps it.
//!
//! `Nats-Msg-Id` is the id of the record, so that the stream drops repetitions within its duplicate window. After a failure the
//! connection is replaced, and its unacknowledged records are published again from the spool, in order.

use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use tokio::time::timeout;
use url::Url;

use super::courier::{Delivered, Failure};
use super::envelope::{Envelope, MEDIA_TYPE};
use super::{filled, tls};
use crate::config::sink::NatsSettings;
use crate::config::{Secret, SecretSource, SinkSettings};

pub(super) struct Nats {
    settings: NatsSettings,
    url: Url,
    user: Option<String>,
    secret: Secret,
    credentials: Option<Credentials>,
    tls: Option<rustls::ClientConfig>,
    timeout: Duration,
    name: String,
    instance: Arc<str>,
    context: Option<Context>,
}

impl Nats {
    /// # Errors
    /// Cause and advice for a secret or a certificate that cannot be used.
    pub fn open(url: &Url, nats: &NatsSettings, settings: &SinkSettings, instance: &Arc<str>) -> Result<Self, String> {
        let secret = settings.secret.as_ref().map(|secret| secret.read()).transpose()?.unwrap_or_default();
        let credentials = settings.credentials.as_ref().map(Credentials::read).transpose()?;
        let tls = (url.scheme() == "tls").then(|| tls::client(&settings.tls)).transpose()?;
        Ok(Self {
            settings: nats.clone(),
            url: url.clone(),
            user: settings.user.clone(),
            secret,
            credentials,
            tls,
            timeout: settings.timeout,
            name: format!("touchline-{instance}-{}", settings.name),
            instance: instance.clone(),
            context: None,
        })
    }

    /// Publishes records, and waits for the acknowledgement of each. A failure ends the connection.
    pub async fn deliver(&mut self, batch: &[Envelope]) -> Delivered {
        let mut accepted = 0;
        let outcome = self.publish(batch, &mut accepted).await;
        if outcome.is_err() {
            self.context = None;
        }
        Delivered { accepted, failure: outcome.err() }
    }

    async fn publish(&mut self, batch: &[Envelope], accepted: &mut usize) -> Result<(), Failure> {
        let context = self.connected().await?;
        let mut pending = Vec::with_capacity(batch.len());
        let mut refused = None;
        for envelope in batch {
            let subject = self.subject(envelope);
            let message = PublishMessage::build()
                .payload(envelope.json.clone().into())
                .message_id(&envelope.id)
                .header("Content-Type", MEDIA_TYPE);
            match context.send_publish(subject, message).await {
                Ok(acknowledgement) => pending.push(acknowledgement),
                Err(e) => {
                    refused = Some(self.failure(&e));
                    break;
                }
            }
        }
        for acknowledgement in pending {
            // A repetition is acknowledged as well.
            acknowledgement.await.map_err(|e| self.failure(&e))?;
            *accepted += 1;
        }
        refused.map_or(Ok(()), Err)
    }

    fn failure(&self, error: &jetstream::context::PublishError) -> Failure {
        let host = self.url.host_str().unwrap_or_default();
        let text = super::causes(error);
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Failure::Refused { cause: format!("{host}: {text}") },
            PublishErrorKind::StreamNotFound => Failure::retry(format!(
                "{host}: no JetStream stream keeps the subject {:?}; create one, or set nats_stream",
                self.settings.subject
            )),
            PublishErrorKind::TimedOut => {
                Failure::retry(format!("{host}: no acknowledgement within {} s", self.timeout.as_secs()))
            }
            _ => Failure::retry(format!("{host}: {text}")),
        }
    }

    /// The connection. Creates the JetStream stream if that is configured and it is missing.
    async fn connected(&mut self) -> Result<Context, Failure> {
        if let Some(context) = &self.context {
            return Ok(context.clone());
        }
        let host = self.url.host_str().unwrap_or_default().to_owned();
        let limit = self.timeout;
        let late = |_| Failure::retry(format!("{host}: the server does not answer within {} s", limit.as_secs()));
        let client = timeout(limit, self.options().connect(self.url.as_str())).await.map_err(late)?;
        let client = client.map_err(|e| Failure::retry(format!("{host}: {}", login_cause(&super::causes(&e)))))?;
        let context = jetstream::context::ContextBuilder::new().timeout(limit).ack_timeout(limit).build(client);
        if let Some(name) = &self.settings.create_stream {
            let config = jetstream::stream::Config {
                name: name.clone(),
                subjects: vec![filled(&self.settings.subject, "*", "*", "*")],
                ..Default::default()
            };
            let made = timeout(limit, context.get_or_create_stream(config)).await.map_err(late)?;
            made.map_err(|e| {
                Failure::retry(format!("{host}: cannot create the stream {name}: {}; create it", super::causes(&e)))
            })?;
        }
        self.context = Some(context.clone());
        Ok(context)
    }

    fn options(&self) -> ConnectOptions {
        // Without an end the client would connect again by itself, and send records that are sent again from the spool.
        let mut options = ConnectOptions::new().name(&self.name).max_reconnects(1).connection_timeout(self.timeout);
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

    fn subject(&self, envelope: &Envelope) -> String {
        // A full stop separates the parts of a subject.
        let part = |text: &str| text.replace('.', "_");
        filled(&self.settings.subject, &part(&self.instance), &part(&envelope.stream), envelope.kind.as_str())
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

fn login_cause(text: &str) -> String {
    if text.to_lowercase().contains("authorization") {
        return format!("the server refuses the login ({text}); check user and secret_file");
    }
    text.to_owned()
}
