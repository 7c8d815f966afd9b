//! Chromium, driven by `tests/clients/browser.mjs`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::{npm_folder, script, skip};
use crate::support::{DEADLINE, keeps_network};

/// A browser; it ends with the test.
pub(super) struct Chromium {
    driver: Child,
    wires: Mutex<(Option<ChildStdin>, Receiver<String>)>,
    _network: File,
}

/// One of its tabs.
pub(super) struct Tab<'b> {
    browser: &'b Chromium,
    number: Value,
}

impl Chromium {
    /// `None`, with a message, if it is not installed.
    pub(super) fn start() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let programs = std::env::split_paths(&path).map(|folder| folder.join("chromium"));
        let program: PathBuf = programs.into_iter().find(|file| file.is_file()).or_else(|| skip("chromium"))?;
        let network = keeps_network();
        let mut driver = Command::new("node")
            .arg(script("browser.mjs"))
            .args([npm_folder()?, program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("node: {error}; `make setup` installs what the tests need"));
        let (sender, answers) = channel();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let wires = Mutex::new((driver.stdin.take(), answers));
        Some(Self { driver, wires, _network: network })
    }

    pub(super) fn open(&self, url: &str) -> Tab<'_> {
        Tab { browser: self, number: self.ask(&json!({ "open": url })) }
    }

    fn ask(&self, command: &Value) -> Value {
        let mut wires = self.wires.lock().unwrap();
        writeln!(wires.0.as_mut().unwrap(), "{command}").unwrap();
        // The driver's own deadline passes first, and says what it waited for; the start comes on top of the first answer.
        let answer = wires.1.recv_timeout(DEADLINE * 2).unwrap_or_else(|_| panic!("no answer to {command}"));
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["error"], Value::Null, "{command}");
        answer["ok"].take()
    }
}

impl Tab<'_> {
    /// The value of the expression in the page.
    pub(super) fn run(&self, expression: &str) -> Value {
        self.browser.ask(&json!({ "tab": self.number, "run": expression }))
    }

    /// The same, once it is true.
    pub(super) fn until(&self, expression: &str) -> Value {
        self.browser.ask(&json!({ "tab": self.number, "until": expression }))
    }

    pub(super) fn click(&self, selector: &str) {
        self.browser.ask(&json!({ "tab": self.number, "click": selector }));
    }

    pub(super) fn fill(&self, selector: &str, text: &str) {
        self.browser.ask(&json!({ "tab": self.number, "fill": [selector, text] }));
    }

    /// Protocol and status of each response so far to a URL with this in it.
    pub(super) fn responses(&self, part: &str) -> Vec<(String, u64)> {
        let responses = self.browser.ask(&json!({ "tab": self.number, "responses": true }));
        let responses = responses.as_array().unwrap().iter();
        let responses = responses.filter(|response| response["url"].as_str().unwrap().contains(part));
        responses
            .map(|response| (response["protocol"].as_str().unwrap().to_owned(), response["status"].as_u64().unwrap()))
            .collect()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The driver closes the browser when its input ends. Killed, it takes the browser along: their pipe breaks.
        self.wires.get_mut().unwrap_or_else(|broken| broken.into_inner()).0 = None;
        for _ in 0..500 {
            if matches!(self.driver.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
