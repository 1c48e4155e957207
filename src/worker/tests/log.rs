//! Log lines of one pair carry its name and namespace.

use std::io;

use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

use super::*;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn each_line_of_a_worker_names_its_pair() {
    let log = Log::default();
    // With one dispatcher alone, whether a line is wanted is found out once for all threads, by the default of the thread that comes first. That
    // may be one of another test, which has none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _logging = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(EnvFilter::new("proxypair=trace"))
        .with_writer(log.clone())
        .finish()
        .set_default();
    let stage = Stage::settled().await;
    stage.server.fault(
        Match::new(Verb::Update, "proxypairs").subresource("status"),
        Fault::status(500),
    );
    stage.down(Side::Primary).await;
    stage.until("the backup serves", Stage::is_moved).await;
    stage.standing.send_replace(Standing::Lost);
    stage.down(Side::Backup).await;
    stage.until("the worker ends", |stage| stage.worker.is_finished()).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let mut lines = 0;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let of_pair = &line["span"];
        assert_eq!(
            (&of_pair["pair"], &of_pair["namespace"]),
            (&json!(NAME), &json!(NAMESPACE)),
            "{line}"
        );
        lines += 1;
    }
    for said in [
        "a write failed",
        "commanding the gate",
        "switched",
        "published an Event",
        "stopped watching",
    ] {
        assert!(text.contains(said), "{said} is not among {lines} lines: {text}");
    }
}
