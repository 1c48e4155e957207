//! Every message that users read, on one page: `docs/messages.md`. The page is a snapshot: a changed message changes it, and is reviewed
//! there beside all the others. `UPDATE_MESSAGES=1 cargo test --lib messages` writes it.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{
    api::{Cause, Health, ProxyPair, ProxyPairStatus, Side, Sides, Switch, SwitchKind},
    domain::{
        defect::Defects,
        evidence::{Reading, Timing},
        expiry::{Certificate, Expiry, Stage},
        failover::{Decision, Routing, Waiting},
        health::SideHealth,
        notice::Notice,
        now::Now,
        pair::{Pair, fixture::pair},
        resync::Missing,
        status::{Known, SideKnown, render, waiting_for},
    },
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/messages.md");

#[test]
fn the_page_has_every_message_as_it_is() {
    let page = page();
    if std::env::var_os("UPDATE_MESSAGES").is_some() {
        fs::write(PAGE, &page).unwrap();
    }
    let known = fs::read_to_string(PAGE).unwrap();
    for (line, (known, now)) in known.lines().zip(page.lines()).enumerate() {
        assert_eq!(
            known,
            now,
            "line {}: UPDATE_MESSAGES=1 cargo test --lib messages",
            line + 1
        );
    }
    assert_eq!(known.lines().count(), page.lines().count());
}

fn page() -> String {
    let pair = pair(json!({
        "healthCheck": {"login": {"secretName": "check"}},
        "failback": {"resync": {"policy": "Required"}},
    }));
    let mut page = String::from(
        "# Messages\n\nEvery message that ProxyPair shows, to be searched when one is met. Words in braces stand for values. \
         [failure-modes.md](failure-modes.md) has the reasons, and what to do about each.\n",
    );
    section(&mut page, "Events", events(&pair));
    section(&mut page, "Conditions", conditions(&pair));
    section(&mut page, "What is wrong, in conditions and Events", defects());
    section(&mut page, "status.failback.waitingFor", waits(&pair));
    section(&mut page, "Refused manifests", rules());
    section(&mut page, "Errors", literals(&["#[error("], <[String]>::first));
    section(
        &mut page,
        "Log",
        literals(&["info!(", "warn!(", "error!("], <[String]>::last),
    );
    page
}

fn section(page: &mut String, title: &str, lines: impl IntoIterator<Item = String>) {
    write!(page, "\n## {title}\n\n```\n").unwrap();
    for line in lines {
        writeln!(page, "{line}").unwrap();
    }
    page.push_str("```\n");
}

fn moment() -> Timestamp {
    "2026-12-01T06:00:00Z".parse().unwrap()
}

fn events(pair: &Pair) -> Vec<String> {
    let switch = |kind, to, cause| {
        Notice::Switched(Box::new(Switch {
            kind,
            to,
            cause,
            started_at: MicroTime(moment()),
            finished_at: MicroTime(moment()),
            duration: crate::api::Duration::from_millis(140),
        }))
    };
    let certificate = |side, certificate, stage| Notice::Certificate {
        side,
        certificate,
        expires: moment(),
        stage,
    };
    let pod_deleted = |is_lost| Notice::PodDeleted {
        pod: "proxy-v-primary-0".to_owned(),
        is_lost,
    };
    let notices = [
        switch(SwitchKind::Failover, Side::Backup, Some(Cause::ObjectServerUnreachable)),
        switch(SwitchKind::Failback, Side::Primary, None),
        switch(SwitchKind::Switchover, Side::Backup, Some(Cause::ProxyTerminating)),
        Notice::Withdrawn {
            to: Side::Backup,
            why: "{what is wrong with it}".to_owned(),
        },
        pod_deleted(false),
        pod_deleted(true),
        Notice::Adopted(vec![
            "Service proxy-v".to_owned(),
            "Deployment proxy-v-primary".to_owned(),
        ]),
        certificate(Side::Primary, Certificate::Listener, Stage::Expiring { days: 9 }),
        certificate(Side::Primary, Certificate::Listener, Stage::Expiring { days: 0 }),
        certificate(Side::Backup, Certificate::ObjectServer, Stage::Expired),
    ];
    let line = |notice: &Notice| {
        let text = notice.text(pair);
        let kind = if text.warning { "Warning" } else { "Normal" };
        format!("{kind} {} {}: {}", text.reason, text.action, text.note)
    };
    notices.iter().map(line).collect()
}

fn conditions(pair: &Pair) -> Vec<String> {
    let now = Now {
        monotonic: Instant::now(),
        wall: moment(),
    };
    let timing = Timing::from(&pair.spec.health_check);
    let unknown = SideHealth::unknown(now.monotonic);
    let up = unknown.clone().step(&Reading::Good, &timing, now.monotonic);
    let down = up.clone().step(
        &Reading::Bad {
            cause: Cause::ObjectServerUnreachable,
            message: "{what was observed}".to_owned(),
            down_at: now.monotonic,
        },
        &timing,
        now.monotonic + Duration::from_secs(1),
    );
    let mut lines = BTreeSet::new();
    for (health, target) in [
        (&up, Side::Primary),
        (&up, Side::Backup),
        (&down, Side::Primary),
        (&unknown, Side::Primary),
    ] {
        let routing = Routing {
            serving: Side::Primary,
            target,
            since: Some(now.monotonic),
        };
        let side = |health| SideKnown {
            health,
            sessions: 0,
            gates: Vec::new(),
            acting_primary: None,
            expiry: Expiry::default(),
            unasked: None,
        };
        let known = Known {
            pair,
            routing,
            switching: None,
            sides: Sides {
                primary: side(health),
                backup: side(&up),
            },
            decision: &Decision::STAY,
            problem: None,
            defects: &Defects::default(),
            lost_gates: Vec::new(),
            finished: None,
        };
        let status = render(&known, &ProxyPairStatus::default(), now);
        assert_eq!(
            status.primary.as_ref().map(|side| side.health == Health::Up),
            Some(health.may_serve())
        );
        for condition in status.conditions {
            lines.insert(format!(
                "{} {} {}: {}",
                condition.type_, condition.status, condition.reason, condition.message
            ));
        }
    }
    lines.into_iter().collect()
}

fn defects() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/domain/machine/defects.rs"));
    literals_of(source, &["format!("], <[String]>::first, &mut found);
    found
}

fn waits(pair: &Pair) -> Vec<String> {
    let missing = [
        Missing::Answer(Side::Primary),
        Missing::Sight(Side::Primary, "{the server's words}".to_owned()),
        Missing::Gateway(Side::Primary),
        Missing::Description(Side::Backup, vec!["stock".to_owned()]),
        Missing::Property,
        Missing::ActingPrimary,
        Missing::Confirmation,
    ];
    [
        Waiting::PrimaryUp,
        Waiting::PrimaryStable,
        Waiting::MinimumOnBackup,
        Waiting::ModeNever,
    ]
    .into_iter()
    .chain(missing.map(Waiting::Resync))
    .map(|waiting| waiting_for(&waiting, pair))
    .collect()
}

/// The messages of all rules in the CRD.
fn rules() -> BTreeSet<String> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for rule in fields
                    .get("x-kubernetes-validations")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    found.extend(rule["message"].as_str().map(str::to_owned));
                }
                fields.values().for_each(|value| collect(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    collect(&serde_json::to_value(ProxyPair::crd()).unwrap(), &mut found);
    found
}

/// One string literal of each call of these macros and attributes in the sources.
fn literals(calls: &[&str], which: fn(&[String]) -> Option<&String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        literals_of(&source, calls, which, &mut found);
    }
    found
}

fn literals_of(source: &Path, calls: &[&str], which: fn(&[String]) -> Option<&String>, found: &mut BTreeSet<String>) {
    let text = fs::read_to_string(source).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    for call in calls {
        for (at, _) in text.match_indices(call) {
            found.extend(which(&strings(arguments(&text[at + call.len()..]))).cloned());
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests.rs")
            && !path.ends_with("messages.rs")
        {
            found.push(path);
        }
    }
    found
}

/// What stands before the parenthesis that closes the call.
fn arguments(text: &str) -> &str {
    let (mut depth, mut in_string, mut escaped) = (1, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '(' if !in_string => depth += 1,
            ')' if !in_string => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    text
}

/// The string literals in a piece of code, on one line each.
fn strings(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut current, mut escaped) = (None::<String>, false);
    for character in code.chars() {
        match (&mut current, character) {
            (Some(text), _) if escaped => {
                escaped = false;
                text.push(character);
            }
            (Some(_), '\\') => escaped = true,
            (Some(text), '"') => {
                let lines: Vec<_> = text.lines().map(str::trim).collect();
                found.push(lines.join(if lines.len() > 1 { " " } else { "" }).trim().to_owned());
                current = None;
            }
            (Some(text), _) => text.push(character),
            (None, '"') => current = Some(String::new()),
            (None, _) => {}
        }
    }
    found
}
