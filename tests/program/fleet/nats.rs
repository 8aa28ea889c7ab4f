//! A NATS server, and a client that reads what JetStream keeps.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::skip::{Lacks, skip};
use crate::common::wait::until;
use crate::common::{Child, free_tcp_port};

const PROGRAM: &str = "/usr/sbin/nats-server";

/// A server with JetStream. It keeps its data over a restart.
pub struct Nats {
    folder: PathBuf,
    pub port: u16,
    /// The file of the password, if there is a login.
    password: Option<PathBuf>,
    process: Option<Child>,
}

impl Nats {
    /// [`None`] without the program: the test is skipped.
    pub fn start(folder: &Path, prepare: impl FnOnce(&mut Self)) -> Option<Self> {
        if !Path::new(PROGRAM).is_file() {
            skip(Lacks::Tool, &format!("no {PROGRAM}"));
            return None;
        }
        let mut nats = Self { folder: folder.join("jetstream"), port: free_tcp_port(), password: None, process: None };
        prepare(&mut nats);
        nats.run();
        Some(nats)
    }

    /// Replaces the password of the login, first in its file and then in the server, which closes connections that have the former one.
    pub fn set_password(&mut self, password: &str) {
        let file = self.folder.with_extension("password");
        std::fs::write(&file, password).unwrap();
        self.password = Some(file);
        // A server that reads its file again forgets what its arguments say of JetStream.
        let folder = self.folder.display();
        let text = format!(
            "jetstream {{ store_dir: \"{folder}\" }}\nauthorization {{ users: [ {{ user: ann, password: {password} }} ] }}\n"
        );
        std::fs::write(self.configuration(), text).unwrap();
        if let Some(process) = &self.process {
            let pid = process.0.id().to_string();
            assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        }
    }

    fn configuration(&self) -> PathBuf {
        self.folder.with_extension("conf")
    }

    /// The arguments of the login.
    pub fn login(&self) -> Vec<String> {
        let file = self.password.iter().map(|file| file.display().to_string());
        file.flat_map(|file| ["--fleet-user".into(), "ann".into(), "--fleet-secret-file".into(), file]).collect()
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts the server, and waits until it listens.
    pub fn run(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new(PROGRAM);
        command.args(["-a", "127.0.0.1", "-p", &port]);
        if self.password.is_some() {
            command.arg("-c").arg(self.configuration());
        } else {
            command.args(["-js", "-sd"]).arg(&self.folder);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.process = Some(Child(child));
        until("the start of nats-server", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Puts another content into the object store in place of an object.
    pub fn corrupt(&self, object: &str) {
        let mut client = Client::connect(self.port);
        let subject = format!("$O.touchline-main.M.{}", BASE64_URL_SAFE.encode(object));
        let last = json!({ "last_by_subj": subject });
        let found = client.request("$JS.API.STREAM.MSG.GET.OBJ_touchline-main", &last);
        let info = BASE64_STANDARD.decode(found["message"]["data"].as_str().unwrap()).unwrap();
        let mut info: Value = serde_json::from_slice(&info).unwrap();
        let content = json!({ "weights": "of another pack" });
        let acknowledged = client.request("$O.touchline-main.C.other", &content);
        assert!(acknowledged["seq"].is_number(), "{acknowledged}");
        (info["nuid"], info["chunks"], info["size"]) = (json!("other"), json!(1), json!(content.to_string().len()));
        let digest = Sha256::digest(content.to_string());
        info["digest"] = json!(format!("SHA-256={}", BASE64_URL_SAFE.encode(digest)));
        let acknowledged = client.request(&subject, &info);
        assert!(acknowledged["seq"].is_number(), "{acknowledged}");
    }

    /// The subject, the id and the record of each message that JetStream keeps of the fleet's records.
    pub fn records(&self) -> Vec<(String, String, Value)> {
        let mut client = Client::connect(self.port);
        let state = client.request("$JS.API.STREAM.INFO.touchline-main", &json!({}))["state"].clone();
        let last = state["last_seq"].as_u64().expect("the fleet has records");
        let mut found = Vec::new();
        for seq in 1..=last {
            let message =
                client.request("$JS.API.STREAM.MSG.GET.touchline-main", &json!({ "seq": seq }))["message"].clone();
            let text =
                |key: &str| String::from_utf8(BASE64_STANDARD.decode(message[key].as_str().unwrap()).unwrap()).unwrap();
            let event: Value = serde_json::from_str(&text("data")).unwrap();
            let headers = text("hdrs");
            let id = headers.lines().find_map(|line| line.strip_prefix("Nats-Msg-Id: ")).unwrap().to_owned();
            found.push((message["subject"].as_str().unwrap().to_owned(), id, event["data"].clone()));
        }
        found
    }
}

/// Speaks the text protocol, as far as requests need it.
struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Client {
    fn connect(port: u16) -> Self {
        let writer = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut client = Self { reader: BufReader::new(writer.try_clone().unwrap()), writer };
        client.line();
        client.send(b"CONNECT {\"verbose\":false,\"headers\":false}\r\nSUB _INBOX.test 1\r\n");
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.reader.read_line(&mut line).unwrap() > 0, "the server has ended the connection");
        line.trim_end().to_owned()
    }

    fn request(&mut self, subject: &str, body: &Value) -> Value {
        let body = body.to_string();
        self.send(format!("PUB {subject} _INBOX.test {}\r\n{body}\r\n", body.len()).as_bytes());
        loop {
            let line = self.line();
            if line == "PING" {
                self.send(b"PONG\r\n");
            } else if let Some(length) = line.strip_prefix("MSG ").and_then(|rest| rest.rsplit(' ').next()) {
                let mut body = vec![0; length.parse::<usize>().unwrap() + 2];
                self.reader.read_exact(&mut body).unwrap();
                return serde_json::from_slice(&body).unwrap();
            }
        }
    }
}
