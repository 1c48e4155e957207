//! Log lines of one pair carry its name and namespace.

use super::*;
use crate::telemetry::capture::CapturedLog;

#[tokio::test(start_paused = true)]
async fn each_line_of_a_worker_names_its_pair() {
    let log = CapturedLog::begin();
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
    log.assert_names_pair(
        NAMESPACE,
        NAME,
        &[
            "a write failed",
            "commanding the gate",
            "switched",
            "published an Event",
            "stopped watching",
        ],
    );
}
