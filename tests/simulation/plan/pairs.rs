//! Pairs, their timings and their probes.

use std::{sync::Arc, time::Duration};

use proxypair::domain::pair::Pair;
use serde_json::{Value, json};

use super::{super::random::Random, PairPlan, ProbePlan};

impl PairPlan {
    pub(super) fn of(number: usize, random: &mut Random) -> Self {
        let spec = spec(random);
        let edited = edited(&spec, random);
        let words = |spec: &Value| {
            format!(
                "replicas {} {} healthCheck {} failback {}",
                spec["primary"]["proxy"]["replicas"],
                spec["backup"]["proxy"]["replicas"],
                spec["healthCheck"],
                spec["failback"]
            )
        };
        let timing = format!("{}\n  edited: {}", words(&spec), words(&edited));
        let probes = (0..random.below(3) + 1).map(|_| ProbePlan::of(random)).collect();
        let (pair, edited) = (declared(number, spec, 1), declared(number, edited, 2));
        let interval = |pair: &Pair| pair.spec.health_check.interval.get();
        Self {
            slowest: interval(&pair).max(interval(&edited)),
            pair: Arc::new(pair),
            edited: Arc::new(edited),
            timing,
            probes,
            resync: random.mostly_short(Duration::from_secs(20)),
        }
    }

    /// The time in which something happens with such timings.
    pub(super) fn pace(&self) -> Duration {
        let check = &self.pair.spec.health_check;
        (check.unresponsive_after.get() + check.healthy_after.get()).min(Duration::from_secs(40))
            + Duration::from_secs(3)
    }
}

impl ProbePlan {
    pub(super) fn of(random: &mut Random) -> Self {
        Self {
            knows_backup: !random.one_in(3),
            every: random.millis(300, 3000),
            network_timeout: Duration::from_secs(random.pick(&[2, 5, 20])),
        }
    }
}

fn millis(span: Duration) -> String {
    format!("{}s{}ms", span.as_secs(), span.subsec_millis())
}

/// What a user makes of a spec: one or two fields are others.
fn edited(spec: &Value, random: &mut Random) -> Value {
    let mut edited = spec.clone();
    for _ in 0..=random.below(2) {
        match random.below(9) {
            0 | 1 => edited["healthCheck"]["healthyAfter"] = json!(millis(random.millis(0, 4000))),
            2 | 3 => edited["failback"]["stableFor"] = json!(millis(random.mostly_short(Duration::from_secs(20)))),
            4 => {
                let mode = random.pick(&["Never", "Automatic"]);
                edited["failback"]["mode"] = json!(mode);
            }
            5 => edited["failback"]["drain"]["gracePeriod"] = json!(millis(random.millis(1000, 8000))),
            6 => edited["failback"]["drain"]["delay"] = json!(format!("{}ms", random.pick(&[0, 700, 4000]))),
            7 => {
                let side = random.pick(&["primary", "backup"]);
                edited[side]["proxy"]["replicas"] = json!(random.pick(&[1, 2, 3]));
            }
            _ if edited["healthCheck"]["login"].is_null() => {
                // The interval of a pair without a login says how soon a gate is taken for silent.
                edited["failback"]["minimumOnBackup"] = json!("2000ms");
            }
            _ => {
                let policy = random.pick(&["Required", "Ignored"]);
                edited["failback"]["resync"] = json!({"policy": policy});
            }
        }
    }
    // A shorter interval leaves unresponsiveAfter legal.
    if random.one_in(4) {
        let interval = spec["healthCheck"]["interval"].clone();
        let shorter = match interval.as_str() {
            Some("1s0ms" | "2s0ms" | "5s0ms") => json!("0s500ms"),
            _ => interval,
        };
        edited["healthCheck"]["interval"] = shorter;
    }
    edited
}

/// Any legal timing: small ones most of the time, so that histories are short, and close to the limits of the rules.
fn spec(random: &mut Random) -> Value {
    let interval = Duration::from_millis(match random.one_in(25) {
        true => random.pick(&[100, 10_000, 30_000, 60_000]),
        false => random.pick(&[250, 500, 500, 1000, 1000, 1000, 2000, 5000]),
    });
    let least = (interval * 2).max(Duration::from_secs(2));
    let unresponsive = least + random.pick(&[Duration::ZERO, Duration::ZERO, interval, least]);
    let lost = Duration::from_millis(random.pick(&[500, 1000, 1000, 5000]));
    let unreachable = random.pick(&[Duration::ZERO, Duration::ZERO, interval / 2, interval, unresponsive]);
    let has_login = !random.one_in(3);
    let healthy = random.mostly_short(Duration::from_secs(5));
    let longest = if random.one_in(15) { 60 } else { 20 };
    let stable = random.mostly_short(Duration::from_secs(longest));
    let minimum = random.pick(&[0, 0, 0, 3000, 12_000]);
    let replicas = random.pick(&[1, 1, 2, 2, 3]);
    let of_backup = if random.one_in(4) {
        random.pick(&[1, 2, 3])
    } else {
        replicas
    };
    let grace = match random.one_in(20) {
        true => random.millis(8000, 30_000),
        false => random.millis(1000, 8000),
    };
    let delay = match random.one_in(25) {
        true => random.pick(&[10_000, 20_000]),
        false => random.pick(&[0, 0, 0, 700, 4000]),
    };
    let mut spec = json!({
        "primary": {"proxy": {"replicas": replicas}},
        "backup": {"proxy": {"replicas": of_backup}},
        "healthCheck": {
            "interval": millis(interval),
            "unreachableAfter": millis(unreachable),
            "unresponsiveAfter": millis(unresponsive),
            "lostAfter": millis(lost.min(unresponsive)),
            "healthyAfter": millis(random.pick(&[Duration::ZERO, healthy])),
        },
        "failback": {
            "mode": if random.one_in(8) { "Never" } else { "Automatic" },
            "stableFor": millis(random.pick(&[Duration::ZERO, stable])),
            "minimumOnBackup": format!("{minimum}ms"),
            "drain": {
                "delay": format!("{delay}ms"),
                "gracePeriod": millis(grace),
                "connectionsPerSecond": random.pick(&[1, 2, 10, 100, 1000]),
            },
        },
    });
    // The timings of a pair that declares none.
    if random.one_in(20) {
        for (field, span) in [
            ("interval", "1s"),
            ("unreachableAfter", "1s"),
            ("unresponsiveAfter", "15s"),
            ("lostAfter", "1s"),
            ("healthyAfter", "5s"),
        ] {
            spec["healthCheck"][field] = json!(span);
        }
    }
    if has_login {
        spec["healthCheck"]["login"] = json!({"secretName": "check"});
        if !random.one_in(4) {
            spec["failback"]["resync"] = json!({"policy": "Required"});
        }
    }
    spec
}

/// The pair as an API server stores it.
///
/// # Panics
///
/// If the spec is not legal: the plan is wrong then.
fn declared(number: usize, mut spec: Value, generation: i64) -> Pair {
    spec["serverName"] = json!("PROXY_V");
    for (side, word) in [("primary", "P"), ("backup", "B")] {
        spec[side]["serverName"] = json!(format!("PROXY_{word}"));
        spec[side]["objectServer"] = json!({"name": format!("AGG_{word}"), "host": format!("agg{word}.example.com")});
    }
    let object = serde_json::from_value(json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": format!("proxy-{number}"), "namespace": "netcool", "uid": number.to_string(), "generation": generation},
        "spec": spec,
    }));
    match object.map(|object| Pair::validate(&object)) {
        Ok(Ok(pair)) => pair,
        Ok(Err(error)) => panic!("the plan has an invalid pair: {error}"),
        Err(error) => panic!("the plan has an unreadable pair: {error}"),
    }
}
