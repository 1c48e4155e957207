//! Pairs whose proxy servers cannot run stand beside a healthy one: a property that the program refuses, a Secret that is not there, an image that
//! cannot be pulled.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use kube::ResourceExt;
use proxypair::api::{ProxyPairStatus, Side};
use serde_json::{Value, json};
use testkit::{
    manifest::merge,
    pair::{self, Pair, condition},
    site::{PROXY_USERS, Site, WhenGone, set_proxy_user},
    stage::{SOON, Scene, Setting},
};

/// The image that no node can pull: nobody listens there.
const NO_IMAGE: &str = "127.0.0.1:9/no-such-image:1";
/// The Secret that is not there.
const NO_SECRET: &str = "not-there-yet";
/// How long three pairs may take to start at the same time.
const START: Duration = Duration::from_secs(120);

/// Each says what it lacks, hurts nothing, and comes up when that is put right, without a new operator.
pub async fn beside_a_healthy_one(scene: Arc<Scene>) -> Result<()> {
    let namespace = &scene.namespace;
    let site = Site::with_proxyserv(WhenGone::Stays);
    let stage = scene
        .set_with(&Setting {
            site: Some(site.clone()),
            ..Setting::default()
        })
        .await?;
    let leader = stage.operator.leader().await?;
    let apply = async |name: &str, proxy: Value| {
        let mut manifest = pair::manifest(name, &stage.agg_p, &stage.agg_b);
        merge(&mut manifest["spec"], &site.spec());
        merge(&mut manifest["spec"]["proxy"], &proxy);
        Pair::apply(namespace, manifest).await
    };
    stage.fleet.mark("beside").await?;
    let refused = apply("refused", json!({"properties": {"ConfigCryptoAlg": "AES_FIPS"}})).await?;
    let secretless = apply("secretless", json!({"secretName": NO_SECRET})).await?;
    let imageless = apply("imageless", json!({"image": NO_IMAGE})).await?;

    let said = until_said(&secretless, &["SecretMissing", NO_SECRET, "spec.proxy.secretName"]).await?;
    scene.say(format_args!("secretless: {said}"));
    let said = until_said(
        &refused,
        &["container proxy exited with code 1", "ConfigCryptoAlg AES_FIPS"],
    )
    .await?;
    scene.say(format_args!("refused: {said}"));
    let said = until_said(&imageless, &[NO_IMAGE, "cannot be pulled"]).await?;
    scene.say(format_args!("imageless: {said}"));

    apply("refused", json!({})).await?;
    set_proxy_user(namespace, NO_SECRET, PROXY_USERS[0]).await?;
    apply("imageless", json!({})).await?;
    for pair in [refused, secretless, imageless] {
        pair.until_protected(START).await?;
    }
    let gap = stage.fleet.longest_gap("beside").await?;
    scene.say(format_args!(
        "the healthy pair's longest gap was {} ms",
        gap.as_millis()
    ));
    let status = stage.pair.until_protected(SOON).await?;
    ensure!(
        status.history.is_empty(),
        "the healthy pair moved: {:?}",
        status.history
    );
    let now = stage.operator.leader().await?;
    ensure!(now == leader, "{leader:?} led, and now {now:?}");
    stage.finish().await.map(drop)
}

/// A property that the program refuses, given to a pair that works, reaches the idle side alone: the other serves on, as it was.
pub async fn after_a_change(scene: Arc<Scene>) -> Result<()> {
    let site = Site::with_proxyserv(WhenGone::Stays);
    let stage = scene
        .set_with(&Setting {
            site: Some(site.clone()),
            ..Setting::default()
        })
        .await?;
    let serving = stage.pair.pod(Side::Primary).await?.name_any();
    let change = async |proxy: Value| {
        let mut manifest = pair::manifest(&stage.pair.name, &stage.agg_p, &stage.agg_b);
        merge(&mut manifest["spec"], &site.spec());
        merge(&mut manifest["spec"]["proxy"], &proxy);
        Pair::apply(&scene.namespace, manifest).await
    };
    stage.fleet.mark("change").await?;
    change(json!({"properties": {"ConfigCryptoAlg": "AES_FIPS"}})).await?;
    let status = stage
        .pair
        .until("the backup says which property is refused", SOON, |status| {
            let message = status.backup.as_ref().and_then(|side| side.message.as_deref());
            message.is_some_and(|message| message.contains("ConfigCryptoAlg AES_FIPS"))
        })
        .await?;
    ensure!(
        condition(&status, "Ready") == "True",
        "the pair does not serve: {status:?}"
    );
    let primary = stage.met_by_probes(Side::Primary);
    stage.fleet.until_acknowledged_by(primary, 500, SOON).await?;

    change(json!({})).await?;
    let status = stage.pair.until_protected(START).await?;
    ensure!(status.history.is_empty(), "it moved: {:?}", status.history);
    let now = stage.pair.pod(Side::Primary).await?.name_any();
    ensure!(now == serving, "{serving} served, and now {now}");
    let gap = stage.fleet.longest_gap("change").await?;
    scene.say(format_args!("the longest gap was {} ms", gap.as_millis()));
    stage.finish().await?.expect_no_duplicates_since(&BTreeMap::new())
}

/// Waits until the pair is not ready and its status has these words, and gives what it says of itself and of its primary.
async fn until_said(pair: &Pair, words: &[&str]) -> Result<String> {
    let status = pair
        .until(&format!("says {words:?}"), SOON, |status| {
            let said = in_words(status);
            condition(status, "Ready") == "False" && words.iter().all(|word| said.contains(word))
        })
        .await?;
    Ok(in_words(&status))
}

fn in_words(status: &ProxyPairStatus) -> String {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let ready = ready.map(|ready| format!("{}: {}", ready.reason, ready.message));
    let primary = status.primary.as_ref().and_then(|side| side.message.clone());
    format!("{} | {}", ready.unwrap_or_default(), primary.unwrap_or_default())
}
