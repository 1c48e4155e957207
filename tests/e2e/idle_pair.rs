//! Nothing happens.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::support::{
    stage::{SOON, Scene},
    wait::eventually,
};

/// How long nothing is to be written. Many times the interval of checks, and longer than the pause between two counts of sessions.
const QUIET: Duration = Duration::from_secs(15);

/// While probes send and nothing fails, the operator writes nothing but its Lease.
pub async fn writes_nothing(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let client = &scene.namespace.cluster.client;
    // A pair that has just been made has its last words to write; each attempt is one quiet time of its own.
    eventually(SOON + QUIET * 2, "a quiet time without a write", async || {
        let before = writes(client).await?;
        sleep(QUIET).await;
        let after = writes(client).await?;
        let more: BTreeMap<_, _> = after
            .iter()
            .filter(|(what, count)| before.get(*what) != Some(count))
            .collect();
        ensure!(more.is_empty(), "written within {QUIET:?}: {more:?}");
        Ok(())
    })
    .await?;
    stage.finish().await?;
    Ok(())
}

/// The API server's own count of writes, by what was written: everything an operator of pairs writes, without Leases and Events, which
/// others write too.
async fn writes(client: &kube::Client) -> Result<BTreeMap<String, String>> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let text = client.request_text(request).await?;
    let ours = [
        "resource=\"proxypairs\"",
        "resource=\"services\"",
        "resource=\"deployments\"",
        "resource=\"secrets\"",
        "resource=\"poddisruptionbudgets\"",
        "resource=\"serviceaccounts\"",
    ];
    let verbs = ["APPLY", "PATCH", "PUT", "POST", "DELETE"].map(|verb| format!("verb=\"{verb}\""));
    let has_any = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
    let counted = text
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{") && has_any(line, &ours))
        .filter(|line| verbs.iter().any(|verb| line.contains(verb)))
        // kube-controller-manager and kubelet write these by themselves.
        .filter(|line| !line.contains("subresource=\"token\""))
        .filter(|line| !line.contains("subresource=\"status\"") || line.contains("proxypairs"));
    Ok(counted
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(what, count)| (what.to_owned(), count.to_owned()))
        .collect())
}
