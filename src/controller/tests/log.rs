//! Log lines of one pair carry its name and namespace.

use super::*;
use crate::telemetry::capture::CapturedLog;

#[tokio::test(start_paused = true)]
async fn each_line_of_a_reconciliation_names_its_pair() {
    let log = CapturedLog::begin();
    let stage = Stage::new(json!({})).await;
    stage
        .server
        .fault(Match::new(Verb::Patch, "serviceaccounts"), Fault::status(403));
    let error = stage.reconcile().await.unwrap_err();
    on_error(
        Arc::new(DeserializeGuard(Ok(stage.pair()))),
        &error,
        Arc::clone(&stage.registry),
    );
    stage.settle().await;
    stage.registry.forget(&ObjectRef::new(NAME).within(NAMESPACE));
    log.assert_names_pair(
        NAMESPACE,
        NAME,
        &[
            "made new keys",
            "failed to apply a child",
            "failed to reconcile",
            "published an Event",
            "the ProxyPair is gone",
        ],
    );
}
