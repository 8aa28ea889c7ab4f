//! MQTT 3.1.1 and 5: each record is published with QoS 1 on a topic of its stream and type.
//!
//! A connection is used until it fails, and then replaced: its unacknowledged records are published again from the spool, in
//! order. The broker publishes the last will when a connection breaks. Records of type state are retained, so that a client
//! that subscribes later receives the state of every stream.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{Outgoing, QoS, TlsConfiguration, Transport, v5};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use url::Url;

use super::courier::{Delivered, Failure};
use super::envelope::{Envelope, MEDIA_TYPE};
use crate::config::sink::{MqttSettings, MqttVersion};
use crate::config::{RecordKind, Secret, SinkSettings};
use crate::connect::{causes, filled, tls};

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Requests that wait to be written. A batch and its announcements fit.
const REQUESTS: usize = 512;

/// A record of a second has some KB; rumqttc's own limit is 10.
const PACKET_MAX: usize = 1_000_000;

/// The pause before the next attempt to connect while there is nothing to deliver.
const IDLE_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Mqtt {
    settings: MqttSettings,
    url: Url,
    login: Option<(String, String)>,
    tls: Option<Arc<rustls::ClientConfig>>,
    timeout: Duration,
    client_id: String,
    instance: Arc<str>,
    kinds: Option<Vec<RecordKind>>,
    session: Option<Session>,
    _secret: Secret,
}

/// A connection, or the attempt to make one.
struct Session {
    client: MqttClient,
    events: mpsc::UnboundedReceiver<SessionEvent>,
    task: JoinHandle<()>,
    is_connected: bool,
    /// What was published and not yet written, in order: the place in the batch, or nothing for what is no record.
    unsent: VecDeque<Option<usize>>,
    /// What was written and not yet acknowledged, by packet id.
    sent: HashMap<u16, Option<usize>>,
    /// Streams that Home Assistant knows.
    announced: HashSet<String>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum MqttClient {
    V3(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

#[derive(Debug)]
enum SessionEvent {
    Connected,
    /// A record was written, with this packet id. In the order of publishing.
    Sent(u16),
    Acknowledged(u16),
    /// The connection is over.
    Ended(String),
}

impl Mqtt {
    /// # Errors
    /// Cause and advice for a secret or a certificate that cannot be used.
    pub fn open(url: &Url, mqtt: &MqttSettings, settings: &SinkSettings, instance: &Arc<str>) -> Result<Self, String> {
        let secret = settings.secret.as_ref().map(|secret| secret.read()).transpose()?.unwrap_or_default();
        let password = secret.lines.first().cloned().unwrap_or_default();
        let login = settings.user.clone().map(|user| (user, password));
        let tls = (url.scheme() == "mqtts").then(|| tls::client(&settings.tls).map(Arc::new)).transpose()?;
        Ok(Self {
            settings: mqtt.clone(),
            url: url.clone(),
            login,
            tls,
            timeout: settings.timeout,
            client_id: format!("touchline-{instance}-{}", settings.name),
            instance: instance.clone(),
            kinds: settings.kinds.clone(),
            session: None,
            _secret: secret,
        })
    }

    /// Where the broker has whether this process is connected: `online` or `offline`.
    fn status_topic(&self) -> String {
        format!("touchline/{}/status", self.instance)
    }

    fn topic(&self, stream: &str, kind: RecordKind) -> String {
        filled(&self.settings.topic, &self.instance, stream, kind.as_str())
    }

    /// Publishes records. A failure ends the connection.
    pub async fn deliver(&mut self, batch: &[Envelope]) -> Delivered {
        let (mut session, limit) = match self.connected().await {
            Ok(session) => (session, self.timeout),
            Err(failure) => return Delivered { accepted: 0, failure: Some(failure) },
        };
        let mut is_accepted = vec![false; batch.len()];
        let outcome = self.publish(&mut session, batch, &mut is_accepted, limit).await;
        let accepted = is_accepted.iter().take_while(|is_accepted| **is_accepted).count();
        match outcome {
            Ok(()) => {
                self.session = Some(session);
                Delivered { accepted, failure: None }
            }
            Err(cause) => Delivered { accepted, failure: Some(Failure::retry(cause)) },
        }
    }

    async fn publish(
        &self,
        session: &mut Session,
        batch: &[Envelope],
        is_accepted: &mut [bool],
        limit: Duration,
    ) -> Result<(), String> {
        for (place, envelope) in batch.iter().enumerate() {
            if self.settings.home_assistant && session.announced.insert(envelope.stream.clone()) {
                for (topic, payload) in self.announcements(&envelope.stream) {
                    session.publish(topic, true, payload, None).await?;
                }
            }
            let is_retained = matches!(envelope.kind, RecordKind::State | RecordKind::Expectation);
            let topic = self.topic(&envelope.stream, envelope.kind);
            session.publish(topic, is_retained, envelope.json.clone(), Some(place)).await?;
        }
        while !(session.unsent.is_empty() && session.sent.is_empty()) {
            let next = timeout(limit, session.next()).await;
            let place = next.map_err(|_| format!("the broker acknowledges nothing within {} s", limit.as_secs()))??;
            if let Some(place) = place {
                is_accepted[place] = true;
            }
        }
        Ok(())
    }

    /// The connection, once it stands and the broker shows this process as online.
    async fn connected(&mut self) -> Result<Session, Failure> {
        if self.session.is_none() {
            self.session = Some(self.start());
        }
        let (limit, host) = (self.timeout, self.url.host_str().unwrap_or_default().to_owned());
        let outcome = timeout(limit, self.wait_connected()).await;
        match (outcome, self.session.take()) {
            (Ok(Ok(())), Some(session)) => Ok(session),
            (Ok(Err(cause)), _) => Err(Failure::retry(format!("{host}: {cause}"))),
            _ => Err(Failure::retry(format!("{host}: the broker does not answer within {} s", limit.as_secs()))),
        }
    }

    /// Waits for the connection in `self.session`. May be cancelled and called again.
    async fn wait_connected(&mut self) -> Result<(), String> {
        let topic = self.status_topic();
        let Some(session) = &mut self.session else { return Err("not connected".to_owned()) };
        if session.is_connected {
            return Ok(());
        }
        while !session.is_connected {
            session.next().await?;
        }
        session.publish(topic, true, "online".to_owned(), None).await
    }

    /// Keeps the connection while there is nothing to deliver: the broker shows this process as online.
    pub async fn idle(&mut self) {
        loop {
            let is_up = match &mut self.session {
                Some(session) if session.is_connected => {
                    // The acknowledgement of "online" may arrive here.
                    session.next().await.is_ok()
                }
                _ => {
                    if self.session.is_none() {
                        self.session = Some(self.start());
                    }
                    self.wait_connected().await.is_ok()
                }
            };
            if !is_up {
                self.session = None;
                sleep(IDLE_PAUSE).await;
            }
        }
    }

    /// Shows this process as offline, and ends the connection.
    pub async fn close(&mut self) {
        let topic = self.status_topic();
        let Some(mut session) = self.session.take().filter(|session| session.is_connected) else { return };
        if session.publish(topic, true, "offline".to_owned(), None).await.is_ok() {
            session.client.disconnect().await;
            while session.next().await.is_ok() {}
        }
    }

    /// Starts a connection and the task that keeps it. Must be called within a runtime.
    fn start(&self) -> Session {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = self.url.port().unwrap_or(if self.tls.is_some() { 8883 } else { 1883 });
        let transport = || match &self.tls {
            Some(tls) => Transport::Tls(TlsConfiguration::Rustls(tls.clone())),
            None => Transport::Tcp,
        };
        let (to, events) = mpsc::unbounded_channel();
        let (client, task) = match self.settings.version {
            MqttVersion::V3 => {
                let mut options = rumqttc::MqttOptions::new(&self.client_id, host, port);
                options.set_transport(transport()).set_keep_alive(KEEP_ALIVE).set_clean_session(true);
                options.set_max_packet_size(PACKET_MAX, PACKET_MAX);
                options.set_last_will(rumqttc::LastWill::new(self.status_topic(), "offline", QoS::AtLeastOnce, true));
                if let Some((user, password)) = &self.login {
                    options.set_credentials(user, password);
                }
                let (client, mut connection) = rumqttc::AsyncClient::new(options, REQUESTS);
                let task = tokio::spawn(async move {
                    loop {
                        let event = match connection.poll().await {
                            Ok(rumqttc::Event::Incoming(rumqttc::Packet::ConnAck(_))) => SessionEvent::Connected,
                            Ok(rumqttc::Event::Incoming(rumqttc::Packet::PubAck(ack))) => {
                                SessionEvent::Acknowledged(ack.pkid)
                            }
                            Ok(rumqttc::Event::Outgoing(Outgoing::Publish(id))) => SessionEvent::Sent(id),
                            Ok(_) => continue,
                            Err(e) => SessionEvent::Ended(cause(&e)),
                        };
                        if forward(&to, event) {
                            return;
                        }
                    }
                });
                (MqttClient::V3(client), task)
            }
            MqttVersion::V5 => {
                let mut options = v5::MqttOptions::new(&self.client_id, host, port);
                options.set_transport(transport()).set_keep_alive(KEEP_ALIVE).set_clean_start(true);
                options.set_max_packet_size(u32::try_from(PACKET_MAX).ok());
                let will = v5::mqttbytes::v5::LastWill::new(
                    self.status_topic(),
                    "offline",
                    v5::mqttbytes::QoS::AtLeastOnce,
                    true,
                    None,
                );
                options.set_last_will(will);
                if let Some((user, password)) = &self.login {
                    options.set_credentials(user, password);
                }
                let (client, mut connection) = v5::AsyncClient::new(options, REQUESTS);
                let task = tokio::spawn(async move {
                    use v5::mqttbytes::v5::Packet;
                    loop {
                        let event = match connection.poll().await {
                            Ok(v5::Event::Incoming(Packet::ConnAck(_))) => SessionEvent::Connected,
                            Ok(v5::Event::Incoming(Packet::PubAck(ack))) => SessionEvent::Acknowledged(ack.pkid),
                            Ok(v5::Event::Outgoing(Outgoing::Publish(id))) => SessionEvent::Sent(id),
                            Ok(_) => continue,
                            Err(e) => SessionEvent::Ended(cause(&e)),
                        };
                        if forward(&to, event) {
                            return;
                        }
                    }
                });
                (MqttClient::V5(client), task)
            }
        };
        Session {
            client,
            events,
            task,
            is_connected: false,
            unsent: VecDeque::new(),
            sent: HashMap::new(),
            announced: HashSet::new(),
        }
    }

    /// Topics and contents that make Home Assistant show a stream: its class, and its state.
    fn announcements(&self, stream: &str) -> Vec<(String, String)> {
        let delivers = |kind| self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind));
        let slug = |text: &str| text.replace('.', "_");
        let (instance, id) = (slug(&self.instance), slug(stream));
        let mut sensors = Vec::new();
        if delivers(RecordKind::Second) {
            sensors.push(("class", RecordKind::Second, "{{ value_json.data.window.label }}"));
        } else if delivers(RecordKind::Event) {
            let template = "{{ value_json.data['class'] if value_json.data.kind == 'onset' else 'none' }}";
            sensors.push(("class", RecordKind::Event, template));
        }
        if delivers(RecordKind::State) {
            sensors.push(("state", RecordKind::State, "{{ value_json.data.state }}"));
        }
        if delivers(RecordKind::Expectation) {
            let template = "{{ 'unexpected' if value_json.data.kind == 'unexpected-began' else 'as expected' }}";
            sensors.push(("programme", RecordKind::Expectation, template));
        }
        let announcement = |(name, kind, template): (&str, RecordKind, &str)| {
            let unique_id = format!("touchline_{instance}_{id}_{name}");
            let content = json!({
                "name": format!("{stream} {name}"),
                "unique_id": unique_id,
                "state_topic": self.topic(stream, kind),
                "value_template": template,
                "availability_topic": self.status_topic(),
                "device": {
                    "identifiers": [format!("touchline_{instance}")],
                    "name": format!("Touchline {}", self.instance),
                    "manufacturer": "Touchline",
                    "sw_version": env!("CARGO_PKG_VERSION"),
                },
            });
            (format!("homeassistant/sensor/{unique_id}/config"), content.to_string())
        };
        sensors.into_iter().map(announcement).collect()
    }
}

impl MqttClient {
    async fn publish(&self, topic: String, is_retained: bool, payload: String, is_event: bool) -> Result<(), String> {
        match self {
            MqttClient::V3(client) => client
                .publish(topic, QoS::AtLeastOnce, is_retained, payload)
                .await
                .map_err(|_| "cannot publish: the connection ended, or the topic is invalid".to_owned()),
            MqttClient::V5(client) => {
                let properties = v5::mqttbytes::v5::PublishProperties {
                    payload_format_indicator: Some(1),
                    content_type: is_event.then(|| MEDIA_TYPE.to_owned()),
                    ..Default::default()
                };
                client
                    .publish_with_properties(topic, v5::mqttbytes::QoS::AtLeastOnce, is_retained, payload, properties)
                    .await
                    .map_err(|_| "cannot publish: the connection ended, or the topic is invalid".to_owned())
            }
        }
    }

    async fn disconnect(&self) {
        // Both fail only if the connection has ended.
        match self {
            MqttClient::V3(client) => drop(client.disconnect().await),
            MqttClient::V5(client) => drop(client.disconnect().await),
        }
    }
}

impl Session {
    async fn publish(
        &mut self,
        topic: String,
        is_retained: bool,
        payload: String,
        place: Option<usize>,
    ) -> Result<(), String> {
        self.client.publish(topic, is_retained, payload, place.is_some()).await?;
        self.unsent.push_back(place);
        Ok(())
    }

    /// Waits for an event. Returns the place in the batch of a record that the broker has acknowledged.
    async fn next(&mut self) -> Result<Option<usize>, String> {
        match self.events.recv().await {
            Some(SessionEvent::Connected) => self.is_connected = true,
            Some(SessionEvent::Sent(id)) => {
                if let Some(place) = self.unsent.pop_front() {
                    self.sent.insert(id, place);
                }
            }
            Some(SessionEvent::Acknowledged(id)) => return Ok(self.sent.remove(&id).flatten()),
            Some(SessionEvent::Ended(cause)) => return Err(cause),
            None => return Err("the connection ended".to_owned()),
        }
        Ok(None)
    }
}

/// Passes an event on. Returns true when no event follows.
fn forward(to: &mpsc::UnboundedSender<SessionEvent>, event: SessionEvent) -> bool {
    let is_end = matches!(event, SessionEvent::Ended(_));
    to.send(event).is_err() || is_end
}

/// The cause in words.
fn cause(error: &dyn std::error::Error) -> String {
    let text = causes(error);
    if text.contains("BadUserNamePassword") || text.contains("NotAuthorized") {
        return format!("the broker refuses the login ({text}); check user and secret_file");
    }
    text
}
