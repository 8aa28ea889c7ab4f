//! Headless Chromium through chromedriver: the necessary part of WebDriver (<https://www.w3.org/TR/webdriver2/>) as plain JSON.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use serde_json::{Value, json};

use super::skip::{Lacks, skip};
use super::wait::{LIMIT, until_or};

/// A browser with one page. Dropping it closes the browser.
pub struct Browser {
    driver: Child,
    session: String,
    agent: ureq::Agent,
    /// The browser's profile, removed when the browser is dropped.
    _profile: tempfile::TempDir,
}

/// Starts chromedriver, and returns the port that it chose. It ends if that port is not free for both IPv4 and IPv6.
fn start_driver() -> std::io::Result<(Child, String)> {
    for _ in 0..5 {
        let mut command = Command::new("chromedriver");
        let mut driver = command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut printed = Vec::new();
        for line in lines {
            if let Some((_, port)) = line.split_once("successfully on port ") {
                return Ok((driver, port.trim_end_matches('.').to_owned()));
            }
            printed.push(line);
        }
        eprintln!("chromedriver ended with {}: {printed:?}", driver.wait()?);
    }
    panic!("chromedriver printed no port in five attempts");
}

impl Browser {
    /// [`None`] after a reported skip when chromedriver (Debian package chromium-driver) is missing. The gate does not allow that.
    pub fn start() -> Option<Self> {
        let (driver, port) = match start_driver() {
            Ok(started) => started,
            Err(e) => {
                skip(Lacks::Tool, &format!("chromedriver (Debian package chromium-driver) does not start: {e}"));
                return None;
            }
        };
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT)).build().into();
        let profile = tempfile::tempdir().unwrap();
        let base = format!("http://127.0.0.1:{port}/session");
        let limit_ms = LIMIT.as_millis() as u64;
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "timeouts": {"script": limit_ms, "pageLoad": limit_ms},
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1280,800",
                format!("--user-data-dir={}", profile.path().display()),
            ]},
        }}});
        let answer = request(&agent, &base, Some(capabilities));
        let id = answer["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}"));
        Some(Self { session: format!("{base}/{id}"), driver, agent, _profile: profile })
    }

    fn post(&self, path: &str, body: Value) -> Value {
        request(&self.agent, &format!("{}/{path}", self.session), Some(body))
    }

    pub fn go(&self, url: &str) {
        self.post("url", json!({"url": url}));
    }

    /// Runs `script` as the body of a function and returns its result.
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []}))
    }

    /// The text of the first element that matches `selector`.
    pub fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({})?.textContent ?? '(none)'", json!(selector));
        self.run(&script).as_str().unwrap().to_owned()
    }

    /// Waits until `script` returns a value other than false and null. `name` is for the failure message. An element that is not there yet
    /// is waited for too.
    pub fn wait(&self, name: &str, script: &str) -> Value {
        let script = format!("try {{ {script} }} catch (e) {{ if (e instanceof TypeError) return null; throw e }}");
        let poll = || Some(self.run(&script)).filter(|value| value.as_bool() != Some(false) && !value.is_null());
        until_or(poll, || {
            let page = self.run("return document.body.innerText");
            format!("{name} did not happen; page text: {page}, console: {:?}", self.console())
        })
    }

    /// Sends a command of the Chrome DevTools Protocol.
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({"cmd": command, "params": parameters}))
    }

    /// Sets the size of the viewport in CSS pixels, and whether the device is a phone.
    pub fn resize(&self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}),
        );
    }

    /// Sets the preferred colour scheme: `light` or `dark`.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Writes a screenshot of the viewport to `path` (PNG).
    pub fn screenshot(&self, path: &Path) -> Vec<u8> {
        let answer = request(&self.agent, &format!("{}/screenshot", self.session), None);
        let png = base64::engine::general_purpose::STANDARD.decode(answer.as_str().unwrap()).unwrap();
        std::fs::write(path, &png).unwrap();
        png
    }

    /// The console's warnings and errors since the last call.
    pub fn console(&self) -> Vec<String> {
        let log = self.post("se/log", json!({"type": "browser"}));
        let line = |e: &Value| format!("{}: {}", e["level"].as_str().unwrap(), e["message"].as_str().unwrap());
        log.as_array().into_iter().flatten().filter(|e| e["level"] != "INFO").map(line).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Closes the browser, then ends the driver. Both may already have ended after a failure.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Sends a POST with `body`, or a GET without one. Returns the `value` of the answer.
fn request(agent: &ureq::Agent, url: &str, body: Option<Value>) -> Value {
    let answer = match body {
        Some(body) => agent.post(url).content_type("application/json").send(body.to_string()),
        None => agent.get(url).call(),
    };
    let mut answer = answer.unwrap_or_else(|e| panic!("{url}: {e}"));
    let status = answer.status();
    // A screenshot is larger than the default limit.
    let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
    assert!(status.is_success(), "{url}: {status} {text}");
    let mut answer: Value = serde_json::from_str(&text).unwrap();
    answer["value"].take()
}
