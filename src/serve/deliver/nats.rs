//! NATS JetStream: each record is published on a subject of its stream and type, and acknowledged by the stream that keeps it.
//!
//! `Nats-Msg-Id` is the id of the record, so that the stream drops repetitions within its duplicate window. After a failure the
//! connection is replaced, and its unacknowledged records are published again from the spool, in order.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use tokio::time::timeout;
use url::Url;

use super::courier::{Delivered, Failure};
use super::envelope::{Envelope, MEDIA_TYPE};
use crate::config::SinkSettings;
use crate::config::sink::NatsSettings;
use crate::connect::nats::{NatsLogin, login_cause, subject};
use crate::connect::{causes, filled};

pub(super) struct Nats {
    settings: NatsSettings,
    url: Url,
    sink: SinkSettings,
    login: NatsLogin,
    timeout: Duration,
    instance: Arc<str>,
    context: Option<Context>,
}

fn login(url: &Url, settings: &SinkSettings, instance: &str) -> Result<NatsLogin, String> {
    NatsLogin::open(url, settings, format!("touchline-{instance}-{}", settings.name))
}

impl Nats {
    /// # Errors
    /// Cause and advice for a secret or a certificate that cannot be used.
    pub fn open(url: &Url, nats: &NatsSettings, settings: &SinkSettings, instance: &Arc<str>) -> Result<Self, String> {
        Ok(Self {
            settings: nats.clone(),
            login: login(url, settings, instance)?,
            url: url.clone(),
            sink: settings.clone(),
            timeout: settings.timeout,
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
        let host = self.login.host();
        let text = causes(error);
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
        let host = self.login.host().to_owned();
        let limit = self.timeout;
        let late = |_| Failure::retry(format!("{host}: the server does not answer within {} s", limit.as_secs()));
        // A password may have been replaced since.
        let login = login(&self.url, &self.sink, &self.instance);
        self.login = login.map_err(|e| Failure::retry(format!("{host}: {e}")))?;
        // Without an end the client would connect again by itself, and send records that are sent again from the spool.
        let options = self.login.options().max_reconnects(1);
        let client = timeout(limit, options.connect(self.login.url())).await.map_err(late)?;
        let client = client.map_err(|e| Failure::retry(format!("{host}: {}", login_cause(&causes(&e)))))?;
        let context = jetstream::context::ContextBuilder::new().timeout(limit).ack_timeout(limit).build(client);
        if let Some(name) = &self.settings.create_stream {
            let config = jetstream::stream::Config {
                name: name.clone(),
                subjects: vec![filled(&self.settings.subject, "*", "*", "*")],
                max_age: self.settings.keep.unwrap_or_default(),
                ..Default::default()
            };
            let made = timeout(limit, context.get_or_create_stream(config)).await.map_err(late)?;
            made.map_err(|e| {
                Failure::retry(format!("{host}: cannot create the stream {name}: {}; create it", causes(&e)))
            })?;
        }
        self.context = Some(context.clone());
        Ok(context)
    }

    fn subject(&self, envelope: &Envelope) -> String {
        subject(&self.settings.subject, &self.instance, &envelope.stream, envelope.kind)
    }
}
