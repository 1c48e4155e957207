//! Certificates: an ObjectServer that comes back with a wrong one, a listener's that ends or is renewed, authorities that are missing.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod, Secret},
    events::v1::Event,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use proxypair::api::{Cause, Health, ProxyPairStatus, Side, SwitchKind};
use serde_json::json;
use testkit::{
    certificates::Issuer,
    pair::{expect_history, expect_there_and_back},
    site::{CA, Site, secret_of, set_authorities, set_certificate},
    stage::{SOON, Scene, Setting, Stage},
    stand_ins::{Fleet, FleetOptions},
    wait::eventually,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// TLS from the probes to the ObjectServers, to the gateway and to the operator's checks: fails over, waits for the resync, comes home.
pub async fn everything_over_tls(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        site: Some(Site {
            has_gateway: true,
            ..site()
        }),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    stage
        .pair
        .until("says when all four certificates end", SOON, |status| {
            Side::BOTH.into_iter().all(|side| {
                let side = status.side(side);
                side.is_some_and(|side| {
                    side.listener_certificate_expires.is_some() && side.object_server_certificate_expires.is_some()
                })
            })
        })
        .await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    stage.fleet.mark("failback").await?;
    stage.agg_p.restart().await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    expect_no_tls_refused(&stage).await?;
    stage.finish().await?;
    Ok(())
}

/// The gates forward TLS that they cannot read: the probes see the ObjectServers' own certificates, and fail over and come home all the same.
pub async fn passed_through(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        site: Some(Site {
            passes_through: true,
            ..site()
        }),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    stage.fleet.mark("failback").await?;
    stage.agg_p.restart().await?;
    stage.until_moved(Side::Primary, "failback").await?;
    stage.pair.until_protected(SOON).await?;
    expect_no_tls_refused(&stage).await?;
    stage.finish().await?;
    Ok(())
}

/// A new pod of the primary gets a certificate that does not fit its key, so that its port never opens: the backup serves meanwhile, its
/// probes are left alone, and status says what is wrong. With the right one all come home.
pub async fn a_listeners_does_not_fit_its_key(scene: Arc<Scene>) -> Result<()> {
    let site = site();
    let authority = site.authority.clone().context("the site has TLS")?;
    let setting = Setting {
        site: Some(site),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    let listener = secret_of("PROXY_P");
    let right = authority.issue("PROXY_P");
    let mut wrong = authority.issue("PROXY_P");
    wrong.key.clone_from(&right.key);
    set_certificate(&scene.namespace, &listener, &wrong).await?;
    let pod = stage.pair.pod(Side::Primary).await?.name_any();
    let pods = scene.namespace.api::<Pod>();
    pods.delete(&pod, &DeleteParams::default()).await?;
    stage.fleet.until_all_on("AGG_B", SOON).await?;
    let before = stage.fleet.report().await?.totals.reconnects;
    let closed = |status: &ProxyPairStatus| {
        let primary = status.primary.as_ref();
        primary.is_some_and(|side| side.health == Health::Down && side.cause == Some(Cause::ProxyUnreachable))
    };
    stage.pair.until("the primary's port is closed", SOON, closed).await?;
    // Longer than `stableFor` and than a drain of those who are taken for stragglers.
    stage.fleet.until_acknowledged_by("AGG_B", 2000, SOON).await?;
    let status = stage.pair.status().await?;
    ensure!(closed(&status), "{status:?}");
    let after = stage.fleet.report().await?.totals.reconnects;
    ensure!(after == before, "{} probes were driven off the backup", after - before);

    set_certificate(&scene.namespace, &listener, &right).await?;
    stage.fleet.mark("failback").await?;
    stage
        .until_moved_within(Side::Primary, "failback", Duration::from_secs(150))
        .await?;
    stage.finish().await.map(drop)
}

/// The primary's ObjectServer comes back with another name in its certificate, with one of another authority, with one that is over: status
/// says what was shown and what is wanted, nobody logs in there, and the pair stays where it is. With the right one all come home.
pub async fn wrong_ones_keep_the_pair_on_the_backup(scene: Arc<Scene>) -> Result<()> {
    let mut site = site();
    let authority = site.authority.clone().context("the site has TLS")?;
    let stranger = Issuer::new("Stranger");
    site.spare = vec![
        ("other-name", authority.issue("AGG_X")),
        ("other-authority", stranger.issue("AGG_P")),
        ("expired", authority.issue_for("AGG_P", -1, &[])),
    ];
    let setting = Setting {
        site: Some(site),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let before = tally(&stage).await?;

    let wrong: [(&str, &[&str]); 3] = [
        ("other-name", &["CN=AGG_X", "expected: Common Name \"AGG_P\""]),
        (
            "other-authority",
            &[
                "it leads to no CA in the CA bundle",
                "issuer \"CN=Stranger\"",
                "CN=Netcool",
            ],
        ),
        ("expired", &["it expired at ", "CN=AGG_P"]),
    ];
    for (secret, words) in wrong {
        stage.agg_p.restart_with_certificate(secret).await?;
        let status = stage
            .pair
            .until(
                &format!("{secret}: the primary's message has {words:?}"),
                SOON,
                |status| {
                    let primary = status.primary.as_ref();
                    let message = primary.and_then(|side| side.message.as_deref()).unwrap_or_default();
                    primary.is_some_and(|side| side.health == Health::Down && side.cause == Some(Cause::TlsRejected))
                        && words.iter().all(|words| message.contains(words))
                },
            )
            .await?;
        let message = status.primary.and_then(|side| side.message).unwrap_or_default();
        scene.say(format_args!("{secret}: {message}"));
        // Longer than healthyAfter and stableFor together.
        stage.fleet.until_acknowledged_by("AGG_B", 1000, SOON).await?;
        let status = stage.pair.status().await?;
        ensure!(status.serving == Some(Side::Backup), "{secret}: it moved: {status:?}");
        expect_history(&status, &[(SwitchKind::Failover, Side::Backup)])?;
        let logins = stage.agg_p.logins().await?;
        ensure!(logins == 0, "{secret}: {logins} sessions logged in");
        stage.agg_p.kill().await?;
    }
    let after = tally(&stage).await?;
    ensure!(after == before, "AGG_P has taken {} events", after - before);

    stage.fleet.mark("failback").await?;
    stage.agg_p.restart_with_certificate(&secret_of("AGG_P")).await?;
    stage.until_moved(Side::Primary, "failback").await?;
    stage.pair.until_protected(SOON).await?;
    stage.finish().await?;
    Ok(())
}

/// The serving proxy's certificate is replaced, once by one that ends in ten days, then by one of another authority. Sessions stay, new
/// ones get the new one, status follows; and of the one that ends soon an Event tells and a metric.
pub async fn a_listeners_is_renewed(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        site: Some(site()),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    let namespace = &scene.namespace;
    let authority = setting.site.as_ref().and_then(|site| site.authority.clone());
    let authority = authority.context("the site has TLS")?;
    let own = secret_of("PROXY_P");

    let soon = authority.issue_for("PROXY_P", 10, &[]);
    set_certificate(namespace, &own, &soon).await?;
    let end = until_listener_ends_in(&stage, 10 * DAY).await?;
    eventually(SOON, "an Event tells of the certificate's end", async || {
        let events = namespace.api::<Event>().list(&ListParams::default()).await?;
        let notes: Vec<_> = events
            .items
            .iter()
            .filter(|event| event.reason.as_deref() == Some("CertificateExpiring"))
            .filter_map(|event| event.note.clone())
            .collect();
        let told =
            |note: &String| note.contains("PROXY_P expires in 9 days") || note.contains("PROXY_P expires in 10 days");
        ensure!(notes.len() == 1 && notes.iter().all(told), "{notes:?}");
        Ok(())
    })
    .await?;
    until_metric_is(&stage, end).await?;

    let next = Issuer::new("Next");
    set_certificate(namespace, &own, &next.issue_for("PROXY_P", 90, &[])).await?;
    let end = until_listener_ends_in(&stage, 90 * DAY).await?;
    until_metric_is(&stage, end).await?;
    let object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "next-ca"},
        "stringData": {"ca.crt": next.pem()},
    });
    namespace.apply::<Secret>(object).await?;
    let options = FleetOptions {
        arguments: vec![
            "--tls-ca=/secrets/next-ca/ca.crt".to_owned(),
            "--ssl-server-common-name=PROXY_P,PROXY_B".to_owned(),
        ],
        secrets: vec!["next-ca".to_owned()],
        ..FleetOptions::default()
    };
    let late = Fleet::start(namespace, "late", "proxy-v:4400", &options).await?;
    late.until_acknowledged_by("AGG_P", 100, SOON).await?;
    late.stop().await?;

    let totals = stage.fleet.report().await?.totals;
    ensure!(totals.reconnects == 0, "sessions were dropped: {totals:?}");
    let status = stage.pair.until_protected(SOON).await?;
    ensure!(status.history.is_empty(), "it moved: {:?}", status.history);
    stage.finish().await?;
    Ok(())
}

/// The ConfigMap with the authorities goes, comes back as garbage, and is put right: each is said within seconds, and meanwhile the traffic
/// goes on where it is, because gates keep what they have.
pub async fn authorities_are_missing_or_garbage(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        site: Some(site()),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    let namespace = &scene.namespace;
    let authority = setting.site.as_ref().and_then(|site| site.authority.clone());
    let authority = authority.context("the site has TLS")?;

    let maps = namespace.api::<ConfigMap>();
    maps.delete(CA, &DeleteParams::default()).await?;
    until_not_ready(
        &stage,
        "ConfigMapMissing",
        &[CA, "spec.primary.objectServer.tls.caBundle"],
    )
    .await?;
    goes_on(&stage).await?;

    set_authorities(namespace, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").await?;
    until_not_ready(
        &stage,
        "CaBundleUnusable",
        &["spec.primary.objectServer.tls", "is not PEM"],
    )
    .await?;
    goes_on(&stage).await?;

    set_authorities(namespace, &authority.pem()).await?;
    stage.pair.until_protected(SOON).await?;
    goes_on(&stage).await?;
    let totals = stage.fleet.report().await?.totals;
    ensure!(totals.reconnects == 0, "sessions were dropped: {totals:?}");

    // What was put right is in force.
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    stage.agg_p.restart().await?;
    stage.until_moved(Side::Primary, "failover").await?;
    stage.finish().await?;
    Ok(())
}

fn site() -> Site {
    Site {
        authority: Some(Arc::new(Issuer::new("Netcool"))),
        ..Site::default()
    }
}

/// Waits until status has the reason for which the pair is not as declared, with these words.
async fn until_not_ready(stage: &Stage<'_>, reason: &str, words: &[&str]) -> Result<()> {
    let what = format!("Ready has the reason {reason} and says {words:?}");
    let said = |status: &ProxyPairStatus| {
        status.conditions.iter().any(|condition| {
            condition.type_ == "Ready"
                && condition.status == "False"
                && condition.reason == reason
                && words.iter().all(|words| condition.message.contains(words))
        })
    };
    stage.pair.until(&what, SOON, said).await.map(drop)
}

/// Fails unless probes send to the primary for longer than any deadline of the checks, with both sides up and nothing moved.
async fn goes_on(stage: &Stage<'_>) -> Result<()> {
    stage.fleet.until_acknowledged_by("AGG_P", 1000, SOON).await?;
    let status = stage.pair.status().await?;
    let up = |side| status.side(side).is_some_and(|side| side.health == Health::Up);
    ensure!(Side::BOTH.into_iter().all(up), "not both sides are up: {status:?}");
    ensure!(status.history.is_empty(), "it moved: {:?}", status.history);
    Ok(())
}

/// Waits until status says that the primary's listener certificate ends so long from now, and says when.
async fn until_listener_ends_in(stage: &Stage<'_>, time: Duration) -> Result<Timestamp> {
    let end = |status: &ProxyPairStatus| status.primary.as_ref()?.listener_certificate_expires.clone();
    let hour = Duration::from_secs(3600);
    let wanted = |end: Timestamp| {
        let left = end.duration_since(Timestamp::now()).unsigned_abs();
        left > time - hour && left < time + hour
    };
    let what = format!(
        "the primary's listener certificate ends in {} days",
        time.as_secs() / 86400
    );
    let status = stage
        .pair
        .until(&what, SOON, |status| end(status).is_some_and(|end| wanted(end.0)))
        .await?;
    Ok(end(&status).context("it has no end any more")?.0)
}

/// Waits until the leader's metric says the same end.
async fn until_metric_is(stage: &Stage<'_>, end: Timestamp) -> Result<()> {
    eventually(SOON, format!("the metric says {end}"), async || {
        let text = stage.operator.metrics().await?;
        let of_listener = |line: &&str| {
            line.starts_with("proxypair_certificate_expires_timestamp_seconds{")
                && line.contains("side=\"primary\"")
                && line.contains("certificate=\"listener\"")
        };
        let line = text.lines().find(of_listener).context("there is no such metric")?;
        ensure!(line.ends_with(&format!(" {}", end.as_second())), "{line}");
        Ok(())
    })
    .await
}

/// How many events the primary's ObjectServer has taken, each as often as it came.
async fn tally(stage: &Stage<'_>) -> Result<u64> {
    Ok(stage.agg_p.rows().await?.iter().map(|row| row.tally).sum())
}

async fn expect_no_tls_refused(stage: &Stage<'_>) -> Result<()> {
    let failures = stage.fleet.report().await?.totals.connect_failures;
    ensure!(
        !failures.contains_key("tls_refused"),
        "probes refused TLS: {failures:?}"
    );
    Ok(())
}
