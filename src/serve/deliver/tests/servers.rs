//! Real servers for the tests, on ports that the system picks. They end when dropped.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, unbounded};
use rumqttc::{Event, MqttOptions, Packet, QoS};

use super::{LIMIT, until};
use crate::skip::{Lacks, skip};

pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// The path of a server of a Debian package; `None`, with a report, if it is not installed.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].iter().map(|folder| Path::new(folder).join(name));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        skip(Lacks::Tool, &format!("{name} is not installed"));
    }
    found
}

/// A server's process.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a server and waits until it listens on `port`.
    pub fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let process = Self(child);
        until("the start of the server", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        process
    }
}

impl Process {
    /// Sends a signal, as to stop or to continue it.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Mosquitto with `lines` in its configuration.
pub(crate) fn mosquitto(program: &Path, folder: &Path, port: u16, lines: &str) -> Process {
    let config = folder.join("mosquitto.conf");
    // It gives up the rights of root otherwise, and cannot read the folder of the test.
    std::fs::write(&config, format!("user root\nlistener {port} 127.0.0.1\n{lines}\n")).unwrap();
    Process::start(Command::new(program).arg("-c").arg(&config), port)
}

/// A message that a subscriber got.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub topic: String,
    pub payload: String,
    pub is_retained: bool,
}

/// Receives all messages of a broker.
pub(crate) struct Subscriber {
    pub messages: Receiver<Message>,
    ends: Arc<AtomicBool>,
}

impl Subscriber {
    /// Returns when the broker has acknowledged the subscription.
    pub fn start(port: u16, login: Option<(&str, &str)>) -> Self {
        let mut options = MqttOptions::new(format!("subscriber-{}", free_port()), "127.0.0.1", port);
        options.set_max_packet_size(1_000_000, 1_000_000);
        if let Some((user, password)) = login {
            options.set_credentials(user, password);
        }
        let (client, mut connection) = rumqttc::Client::new(options, 10);
        client.subscribe("#", QoS::AtLeastOnce).unwrap();
        let (to, messages) = unbounded();
        let (ready_to, ready) = unbounded();
        let ends = Arc::<AtomicBool>::default();
        let has_ended = ends.clone();
        std::thread::spawn(move || {
            let _client = client;
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::SubAck(_))) => ready_to.send(()).unwrap(),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                        let message = Message { topic: publish.topic, payload, is_retained: publish.retain };
                        if to.send(message).is_err() {
                            return;
                        }
                    }
                    Ok(_) if !has_ended.load(Ordering::Relaxed) => {}
                    _ => return,
                }
            }
        });
        ready.recv_timeout(LIMIT).expect("the broker accepts the subscription");
        Self { messages, ends }
    }

    /// The next message for which `is_wanted`.
    pub fn next(&self, is_wanted: impl Fn(&Message) -> bool) -> Message {
        loop {
            let message = self.messages.recv_timeout(LIMIT).expect("a message arrives");
            if is_wanted(&message) {
                return message;
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// Forwards connections to a server. Dropping it breaks them all.
pub(crate) struct Forwarder {
    pub port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Forwarder {
    /// Listens on `port`; 0 selects a free one.
    pub fn start(port: u16, to: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move {
            while let Ok((mut one, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut other) = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await {
                        let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
                    }
                });
            }
        });
        Self { port, _runtime: runtime }
    }
}
