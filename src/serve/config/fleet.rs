//! `[fleet]`: machines that share streams over NATS.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use super::sink::{Mistake, Receiver, SinkFile, SinkKind, SinkSettings, SpoolMaxMb, TimeoutS};
use super::stream_id;
use super::values::Within;

/// Cost of the streams that a node can watch, in thousandths of a processor core.
pub type CapacityMilli = Within<1, 10_000_000>;

/// Name of the fleet's sink.
pub const FLEET_SINK: &str = "fleet";

/// Name of a fleet by default.
const DEFAULT_NAME: &str = "main";

/// Share of the processors that streams may use by default. Beyond it seconds are late, and then shed.
const FULL_PERCENT: usize = 80;

/// How long the JetStream stream keeps the records of a fleet, if the program creates it. Without an end it would fill the disk.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Folder of the spool by default, beside the file of the store or in the working directory.
const SPOOL: &str = "touchline-spool";

/// Folder of the packs of the fleet by default, beside the file of the store or in the working directory.
const PACKS: &str = "touchline-packs";

/// The capacity of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capacity {
    /// 80 % of the processors.
    #[default]
    Auto,
    /// In thousandths of a processor core.
    Of(CapacityMilli),
}

impl Capacity {
    /// In thousandths of a processor core.
    pub fn milli(self) -> u32 {
        match self {
            Self::Of(capacity) => capacity.get(),
            Self::Auto => {
                let processors = std::thread::available_parallelism().map_or(1, usize::from);
                u32::try_from(processors * 10 * FULL_PERCENT).unwrap_or(u32::MAX)
            }
        }
    }
}

impl FromStr for Capacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Of).map_err(|e| format!("{e} thousandths of a processor core, or \"auto\""))
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Of(capacity) => capacity.fmt(f),
        }
    }
}

impl Serialize for Capacity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Capacity {
    /// Takes a number without quotes too.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(i64),
            Text(String),
        }
        let capacity = match Given::deserialize(deserializer)? {
            Given::Number(number) => number.to_string().parse(),
            Given::Text(text) => text.parse(),
        };
        capacity.map_err(serde::de::Error::custom)
    }
}

/// `[fleet]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FleetFile {
    /// Address of the NATS server that the machines of the fleet share: tls://HOST or nats://HOST. Without it the program is in no fleet.
    #[schemars(length(min = 1))]
    pub url: Option<String>,
    /// Name of the fleet: 1 to 32 letters, digits, '-' and '_'.
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]{1,32}$"))]
    pub name: Option<String>,
    /// Name of this machine in the fleet, which no other has; by default the host name.
    #[schemars(regex(pattern = "^[A-Za-z0-9._-]{1,64}$"))]
    pub node: Option<String>,
    /// Cost of the streams that this machine can watch, in thousandths of a processor core; auto is 80 % of the processors.
    #[schemars(with = "Option<String>")]
    pub capacity: Option<Capacity>,
    /// What this machine has, as NAME=VALUE. A stream that needs a label is watched by a machine that has it.
    pub labels: Option<Vec<String>>,
    /// Folder of the spool of records that NATS has not accepted yet, on a local disk; by default touchline-spool/NODE beside the file of
    /// `state`, or in the working directory.
    pub spool: Option<PathBuf>,
    /// Bound of the spool, MB (1,000,000 bytes); beyond it the oldest records are dropped and counted.
    pub spool_max_mb: Option<SpoolMaxMb>,
    /// Folder of the packs that the machine fetches from the fleet, on a local disk; by default touchline-packs/NODE beside the file of
    /// `state`, or in the working directory.
    pub packs: Option<PathBuf>,
    /// Address of this machine's page for people (http or https). Pages of other machines lead there.
    #[schemars(length(min = 1))]
    pub page: Option<String>,
    /// Show the streams of the other machines as well. Each machine then reads the records of all.
    pub follow: Option<bool>,
    /// Store what the other machines publish as well, with `state`: then the history of each machine is that of the fleet. A stream that is watched
    /// for a day takes 3 MB.
    pub history: Option<bool>,
    /// The user of the login.
    #[schemars(length(min = 1))]
    pub user: Option<String>,
    /// File with the password of `user`; without `user`, a token.
    pub secret_file: Option<PathBuf>,
    /// File with the credentials of a user (.creds), or with the seed of an nkey.
    pub credentials_file: Option<PathBuf>,
    /// Certificates of the authorities that the server's certificate may come from (PEM); by default those of the system.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain that the server may ask for (PEM). Needs `client_key`.
    pub client_cert: Option<PathBuf>,
    /// Private key of `client_cert` (PEM).
    pub client_key: Option<PathBuf>,
    /// Limit of the hand-over of all streams when the program stops, seconds.
    pub drain_s: Option<DrainS>,
    /// Score recordings of the fleet (`touchline fleet score`) while streams leave room.
    pub archives: Option<bool>,
}

/// Limit of a hand-over, seconds.
pub type DrainS = Within<0, 3600>;

/// Service managers wait for thirty seconds, and the rest of the end may take ten.
const DRAIN: DrainS = DrainS::of::<15>();

/// The fleet of a process, valid.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSettings {
    /// Name of the fleet.
    pub name: String,
    /// Name of this machine; `None`: the host name.
    pub node: Option<String>,
    /// Cost of the streams that this machine can watch, in thousandths of a processor core.
    pub capacity: u32,
    /// What this machine has.
    pub labels: BTreeMap<String, String>,
    /// Limit of the hand-over when the program stops, seconds.
    pub drain_s: u32,
    /// Folder of the packs of the fleet.
    pub packs: PathBuf,
    /// Address of this machine's page for people.
    pub page: Option<Url>,
    /// Whether the streams of the other machines are shown.
    pub follow: bool,
    /// Whether what the other machines publish is stored, if there is a store.
    pub history: bool,
    /// Whether it scores recordings.
    pub archives: bool,
    /// Address and login of the server, and the sink of the fleet's records.
    pub sink: SinkSettings,
}

impl FleetFile {
    /// Values that do not depend on the machine.
    pub(super) fn default_values() -> Self {
        Self {
            name: Some(DEFAULT_NAME.to_owned()),
            capacity: Some(Capacity::Auto),
            spool_max_mb: Some(SpoolMaxMb::of::<256>()),
            drain_s: Some(DRAIN),
            follow: Some(true),
            history: Some(true),
            archives: Some(true),
            ..Self::default()
        }
    }

    /// The settings; `None` without an address. `state` is the file of the store.
    ///
    /// # Errors
    /// All mistakes.
    pub(super) fn settings(self, state: Option<&Path>) -> Result<Option<FleetSettings>, Vec<Mistake>> {
        if self.url.is_none() {
            let needs = "it belongs to a fleet; give the address of its NATS server by fleet.url (--fleet)";
            let is_given = self.node.is_some() || self.labels.is_some();
            return if is_given { Err(vec![("node", needs.to_owned())]) } else { Ok(None) };
        }
        let mut wrong = Vec::new();
        let name = self.name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let well_formed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !((1..=32).contains(&name.len()) && name.chars().all(well_formed)) {
            wrong
                .push(("name", format!("fleet name {name:?} is ill-formed; use 1 to 32 letters, digits, '-' and '_'")));
        }
        if let Some(Err(_)) = self.node.as_deref().map(stream_id) {
            let node = self.node.as_deref().unwrap_or_default();
            let text = format!("node name {node:?} is ill-formed; use 1 to 64 letters, digits, '-', '_' and '.'");
            wrong.push(("node", text));
        }
        let labels = labels(self.labels.as_deref().unwrap_or_default()).unwrap_or_else(|text| {
            wrong.push(("labels", text));
            BTreeMap::new()
        });
        let page = self.page.as_deref().map(|text| {
            let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            url.filter(|url| url.username().is_empty() && url.password().is_none())
        });
        if page == Some(None) {
            let text =
                "the address of the page is ill-formed; write http://HOST:PORT/ or https://HOST/, without a login";
            wrong.push(("page", text.to_owned()));
        }
        let folder_of = |name: &str| {
            let folder = state.and_then(Path::parent).map_or_else(|| PathBuf::from(name), |parent| parent.join(name));
            folder.join(self.node.as_deref().unwrap_or("node"))
        };
        let spool = self.spool.unwrap_or_else(|| folder_of(SPOOL));
        let packs = self.packs.unwrap_or_else(|| folder_of(PACKS));
        let sink = SinkFile {
            name: FLEET_SINK.to_owned(),
            kind: SinkKind::Nats,
            spool,
            spool_max_mb: self.spool_max_mb,
            streams: None,
            kinds: None,
            timeout_s: Some(TimeoutS::of::<10>()),
            url: self.url,
            command: None,
            user: self.user,
            secret_file: self.secret_file,
            secret_env: None,
            token_file: None,
            token_env: None,
            credentials_file: self.credentials_file,
            credentials_env: None,
            ca_file: self.ca_file,
            client_cert: self.client_cert,
            client_key: self.client_key,
            topic: Some(format!("touchline.{name}.{{stream}}.{{kind}}")),
            mqtt_version: None,
            home_assistant: None,
            nats_stream: Some(records_stream(&name)),
            kafka_mechanism: None,
        };
        let mistakes = sink.problems().into_iter().filter(|(key, _)| *key != "name");
        wrong.extend(mistakes);
        match (wrong.is_empty(), sink.settings()) {
            (true, Ok(mut sink)) => {
                if let Receiver::Nats { nats, .. } = &mut sink.receiver {
                    nats.keep = Some(KEPT);
                }
                let (capacity, drain_s) = (self.capacity.unwrap_or_default().milli(), self.drain_s);
                let drain_s = drain_s.unwrap_or(DRAIN).get();
                let (node, page, follow) = (self.node, page.flatten(), self.follow.unwrap_or(true));
                let (history, archives) = (self.history.unwrap_or(true), self.archives.unwrap_or(true));
                Ok(Some(FleetSettings {
                    name,
                    node,
                    capacity,
                    labels,
                    drain_s,
                    packs,
                    page,
                    follow,
                    history,
                    archives,
                    sink,
                }))
            }
            (_, Err(mistake)) => {
                wrong.push(mistake);
                Err(wrong)
            }
            (false, Ok(_)) => Err(wrong),
        }
    }
}

/// Name of the JetStream stream that keeps the records of fleet `name`.
pub fn records_stream(name: &str) -> String {
    format!("touchline-{name}")
}

/// Labels of `NAME=VALUE`.
///
/// # Errors
/// Names the label that is ill-formed.
pub fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, String> {
    let well_formed = |text: &str| stream_id(text).is_ok();
    let label = |text: &String| match text.split_once('=') {
        Some((name, value)) if well_formed(name) && well_formed(value) => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!(
            "label {text:?} is ill-formed; write NAME=VALUE of letters, digits, '-', '_' and '.', as in site=oslo"
        )),
    };
    texts.iter().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(text: &str) -> Result<Option<FleetSettings>, Vec<Mistake>> {
        toml::from_str::<FleetFile>(text).unwrap().settings(Some(Path::new("/var/lib/touchline/store.db")))
    }

    #[test]
    fn a_fleet_is_an_address_and_has_a_sink_of_its_own() {
        assert_eq!(fleet("name = \"x\""), Ok(None));
        let text =
            "url = \"nats://h\"\nname = \"tv\"\nnode = \"a\"\ncapacity = 2500\nlabels = [\"site=oslo\", \"gpu=true\"]";
        let fleet = fleet(text).unwrap().unwrap();
        assert_eq!((fleet.name.as_str(), fleet.capacity, fleet.labels["gpu"].as_str()), ("tv", 2500, "true"));
        assert_eq!(fleet.sink.spool, Path::new("/var/lib/touchline/touchline-spool/a"));
        assert_eq!(fleet.packs, Path::new("/var/lib/touchline/touchline-packs/a"));
        let Receiver::Nats { nats, .. } = &fleet.sink.receiver else { panic!() };
        assert_eq!(
            (nats.subject.as_str(), nats.create_stream.as_deref()),
            ("touchline.tv.{stream}.{kind}", Some("touchline-tv"))
        );
    }

    #[test]
    fn mistakes_name_their_keys() {
        for (text, key, words) in [
            ("node = \"a\"", "node", "fleet.url"),
            ("url = \"http://h\"", "url", "unknown scheme"),
            ("url = \"nats://ann:pl4nt@h\"", "url", "contains a login"),
            ("url = \"nats://h\"\nname = \"a.b\"", "name", "ill-formed"),
            ("url = \"nats://h\"\nnode = \"a b\"", "node", "ill-formed"),
            ("url = \"nats://h\"\nlabels = [\"gpu\"]", "labels", "NAME=VALUE"),
            ("url = \"nats://h\"\npage = \"node-a\"", "page", "ill-formed"),
            ("url = \"nats://h\"\npage = \"http://ann:pl4nt@h\"", "page", "without a login"),
            ("url = \"nats://h\"\nclient_cert = \"c\"", "client_cert", "needs its key"),
            ("url = \"nats://h\"\nuser = \"u\"\ncredentials_file = \"c\"", "credentials_file", "remove user"),
        ] {
            let wrong = fleet(text).unwrap_err();
            assert!(wrong.iter().any(|(of, text)| *of == key && text.contains(words)), "{text}: {wrong:?}");
        }
        let refused = toml::from_str::<FleetFile>("capacity = 0").unwrap_err().to_string();
        assert!(refused.contains("1 to 10000000") && refused.contains("auto"), "{refused}");
    }
}
