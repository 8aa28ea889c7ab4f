//! All kinds of receivers at once, all of them stalled.

use std::net::TcpListener;
use std::process::Command;

use rustix::process::Signal;

use super::servers::{Process, free_port, installed, mosquitto};
use super::*;
use crate::config::sink::{MqttSettings, MqttVersion, NatsSettings};
use crate::sink::{Sinks, WhenFull};
use touchline_core::threads::Heartbeat;

/// Streams, and the seconds that each publishes while the receivers stall.
const STREAMS: u64 = 8;
const SECONDS: u64 = 200;

fn count(hub: &Hub, metric: &str, sink: &str) -> f64 {
    value(hub, &format!("{metric}{{sink=\"{sink}\"}}")).unwrap_or(-1.0)
}

#[test]
fn stalled_receivers_of_every_kind_lose_nothing_and_get_everything_later() {
    let (Some(broker), Some(nats_server)) = (installed("mosquitto"), installed("nats-server")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let named = |name: &str, receiver: Receiver| SinkSettings {
        name: name.into(),
        spool_max_bytes: 10_000_000,
        ..settings(path.into(), receiver)
    };
    // Connections wait in its queue.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let web = Receiver::Webhook { url: format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap() };
    let [mqtt_port, nats_port] = [free_port(), free_port()];
    let broker = mosquitto(&broker, path, mqtt_port, "allow_anonymous true");
    let topic = "touchline/{stream}/{kind}".to_owned();
    let mqtt = MqttSettings { topic, version: MqttVersion::V5, home_assistant: false };
    let mqtt = Receiver::Mqtt { url: format!("mqtt://127.0.0.1:{mqtt_port}").parse().unwrap(), mqtt };
    let mut command = Command::new(nats_server);
    command.args(["-js", "-a", "127.0.0.1", "-p", &nats_port.to_string(), "-sd"]).arg(path.join("jetstream"));
    let server = Process::start(&mut command, nats_port);
    let nats = NatsSettings { subject: "t.{stream}.{kind}".into(), create_stream: Some("T".into()), keep: None };
    let nats = Receiver::Nats { url: format!("nats://127.0.0.1:{nats_port}").parse().unwrap(), nats };
    [&broker, &server].into_iter().for_each(|process| process.signal(Signal::STOP));
    let script = "until [ -e $1/go ]; do sleep 0.02; done";
    // A process for each record takes its time.
    let exec = SinkSettings { kinds: Some(vec![RecordKind::Event]), name: "exec".into(), ..shell(path, script, LIMIT) };
    let all = vec![named("web", web), exec, named("mqtt", mqtt), named("nats", nats)];
    #[cfg(feature = "kafka")]
    let (cluster, all) = {
        let cluster = super::kafka::cluster();
        cluster.broker_down(1).unwrap();
        let receiver = super::kafka::receiver(&cluster.bootstrap_servers(), "touchline");
        (cluster, [all, vec![named("kafka", receiver)]].concat())
    };
    let names: Vec<String> = all.iter().map(|settings| settings.name.clone()).collect();
    let expected = |name: &str| if name == "exec" { STREAMS * SECONDS / 50 } else { STREAMS * SECONDS };

    let hub = hub();
    let mut sinks = Sinks::new(hub.metrics().clone(), hub.clock().clone(), Heartbeat::default());
    open(all, None, &hub).unwrap().into_iter().for_each(|sink| sinks.add_boxed(sink).unwrap());
    for second in 0..SECONDS {
        for stream in 0..STREAMS {
            let kind = if second % 50 == 0 { "event" } else { "second" };
            // As for live streams: what does not fit into a queue is lost.
            sinks.send(item(&format!("court-{stream}"), kind, second), WhenFull::Drop);
        }
    }
    let waiting = |name: &str| count(&hub, "touchline_sink_waiting_records", name);
    for name in &names {
        until(&format!("the spool of {name}"), || waiting(name) == expected(name) as f64);
    }
    for name in &names {
        assert_eq!(count(&hub, "touchline_sink_sent_records_total", name), 0.0, "{name} is stalled");
        assert_eq!(count(&hub, "touchline_sink_dropped_records_total", name), 0.0, "{name} delays nothing");
    }

    std::fs::write(path.join("go"), "").unwrap();
    #[cfg(feature = "kafka")]
    cluster.broker_up(1).unwrap();
    [&broker, &server].into_iter().for_each(|process| process.signal(Signal::CONT));
    let web = WebServer::serve(listener, &[]);
    for name in &names {
        until(&format!("the deliveries of {name}"), || waiting(name) == 0.0);
        let sent = count(&hub, "touchline_sink_sent_records_total", name);
        assert_eq!(sent, expected(name) as f64, "{name}: {}", hub.deliveries().json());
    }
    let numbers: Vec<u64> = web.received.try_iter().map(|request| request.n()).collect();
    assert_eq!(numbers, (0..SECONDS).flat_map(|second| [second; STREAMS as usize]).collect::<Vec<_>>());
    assert!(!hub.metrics().encode().contains("touchline_sink_lost_records_total{reason=\"overflow\",sink=\"web\"} 1"));
    sinks.finish(Some(LIMIT)).unwrap();
}
