//! The log of one test, as the process would write it.

use std::{
    io,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tracing::{Dispatch, dispatcher::DefaultGuard};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

/// What the thread of a test logs, from [`CapturedLog::begin`] until it is dropped.
pub struct CapturedLog {
    written: Written,
    _logging: DefaultGuard,
    _second: Dispatch,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    /// Captures all that this crate logs in this thread.
    pub fn begin() -> Self {
        // With one dispatcher alone, whether a line is wanted is found out once for all threads, by the default of the thread that comes first.
        // That may be one of another test, which has none.
        let second = Dispatch::new(tracing_subscriber::registry());
        let written = Written::default();
        let logging = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_env_filter(EnvFilter::new("proxypair=trace"))
            .with_writer(written.clone())
            .finish()
            .set_default();
        Self {
            written,
            _logging: logging,
            _second: second,
        }
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<Value> {
        let written = self.written.0.lock().unwrap();
        let lines = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// Asserts that each line so far is of that pair, and that each of the `messages` is among them.
    pub fn assert_names_pair(&self, namespace: &str, name: &str, messages: &[&str]) {
        let lines = self.lines();
        for line in &lines {
            let is_named = |span: &Value| span["pair"] == name && span["namespace"] == namespace;
            let mut spans = line["spans"].as_array().into_iter().flatten();
            assert!(spans.any(is_named), "no pair is named by {line}");
        }
        for message in messages {
            let says = |line: &Value| line["message"].as_str().is_some_and(|said| said.contains(message));
            assert!(lines.iter().any(says), "{message} is not among {lines:#?}");
        }
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Written {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
