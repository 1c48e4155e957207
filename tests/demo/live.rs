//! Lines with a clock, as things happen: what the status says, what the Service selects, where it leads, what the probes see.
//!
//! The watches and the probes tell of things a little after they happened, and not in that order. A line is therefore held back for a moment,
//! and the lines are printed in the order of what they tell of.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt};
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Resource,
    runtime::{WatchStreamExt, watcher},
};
use proxypair::api::{LABEL_SIDE, ProxyPairStatus, Side};
use serde::de::DeserializeOwned;
use testkit::{
    namespace::Namespace,
    outage::{Micros, Reading, millis, now},
    pair::Pair,
    stand_ins::Fleet,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{interval, sleep},
};

/// How long a line is held back.
const HOLD: Duration = Duration::from_millis(600);
/// Time between two looks at the probes.
pub const LOOK: Duration = Duration::from_millis(150);

/// Who a line is about.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// The person who runs the demo.
    You,
    /// Kubernetes and what runs in it.
    Cluster,
    /// The ProxyPair's status.
    Status,
    /// The virtual Service.
    Service,
    /// The probes.
    Probes,
}

impl Who {
    fn word(self) -> &'static str {
        match self {
            Self::You => "you",
            Self::Cluster => "cluster",
            Self::Status => "status",
            Self::Service => "service",
            Self::Probes => "probes",
        }
    }
}

enum Line {
    At { at: Micros, who: Who, what: String },
    Zero { at: Micros, who: Who, what: String },
    Title(String),
}

impl Line {
    fn at(&self) -> Option<Micros> {
        match self {
            Self::At { at, .. } | Self::Zero { at, .. } => Some(*at),
            Self::Title(_) => None,
        }
    }
}

/// Prints lines. Those still held back are printed by [`Live::finish`].
pub struct Live {
    lines: mpsc::UnboundedSender<Line>,
    printer: tokio::task::JoinHandle<()>,
    /// What is being watched; it ends with this.
    watches: Mutex<JoinSet<()>>,
}

impl Live {
    /// Begins.
    pub fn start() -> Self {
        let (lines, said) = mpsc::unbounded_channel();
        Self {
            lines,
            printer: tokio::spawn(print(said)),
            watches: Mutex::new(JoinSet::new()),
        }
    }

    /// Says what has happened just now.
    pub fn say(&self, who: Who, what: impl Into<String>) {
        self.send(Line::At {
            at: now(),
            who,
            what: what.into(),
        });
    }

    /// Says what happened at a certain time.
    pub fn say_at(&self, at: Micros, who: Who, what: impl Into<String>) {
        self.send(Line::At {
            at,
            who,
            what: what.into(),
        });
    }

    /// Says what happened, and counts the time of all lines from there.
    pub fn say_zero(&self, at: Micros, who: Who, what: impl Into<String>) {
        self.send(Line::Zero {
            at,
            who,
            what: what.into(),
        });
    }

    /// Begins a part.
    pub async fn title(&self, words: &str) {
        sleep(HOLD * 2).await;
        self.send(Line::Title(words.to_owned()));
    }

    /// Prints what is left.
    pub async fn finish(self) {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        drop(self.watches);
        drop(self.lines);
        // The printer ends with the last sender; those of the watches go with the watches.
        let _ = self.printer.await;
    }

    /// Tells of the routing of a pair.
    pub fn watch_routing(&self, namespace: &Namespace, pair: &Pair) {
        let named = watcher::Config::default().fields(&format!("metadata.name={}", pair.name));
        let of_service = watcher::Config::default().labels(&format!("kubernetes.io/service-name={}", pair.name));
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);

        let (lines, mut before) = (self.lines.clone(), ProxyPairStatus::default());
        watches.spawn(each(applied(pair.api(), named.clone()), move |object| {
            let status = object.status.unwrap_or_default();
            for what in told_by_status(&before, &status) {
                tell(&lines, Who::Status, what);
            }
            before = status;
        }));

        let (lines, mut before) = (self.lines.clone(), None);
        watches.spawn(each(applied(namespace.api::<Service>(), named), move |object| {
            let selector = object.spec.and_then(|spec| spec.selector).unwrap_or_default();
            let side = selector.get(LABEL_SIDE).cloned();
            if side != before {
                tell(
                    &lines,
                    Who::Service,
                    format!("selects the {}", side.as_deref().unwrap_or("nothing")),
                );
                before = side;
            }
        }));

        let (lines, mut before) = (self.lines.clone(), BTreeSet::new());
        watches.spawn(each(
            applied(namespace.api::<EndpointSlice>(), of_service),
            move |object| {
                let pods: BTreeSet<String> = object
                    .endpoints
                    .into_iter()
                    .filter_map(|endpoint| endpoint.target_ref?.name)
                    .collect();
                if pods != before {
                    let names: Vec<_> = pods.iter().map(String::as_str).collect();
                    tell(
                        &lines,
                        Who::Service,
                        if names.is_empty() {
                            "leads nowhere".to_owned()
                        } else {
                            format!("leads to pod {}", names.join(" and "))
                        },
                    );
                    before = pods;
                }
            },
        ));
    }

    /// Tells of the probes.
    pub fn watch_probes(&self, fleet: &Fleet) {
        let (lines, fleet) = (self.lines.clone(), fleet.clone());
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.spawn(async move {
            let mut seen = Probes::default();
            let mut looks = interval(LOOK);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                // A look that fails says nothing about the probes; the next one comes soon.
                let asked = now();
                let Ok(reading) = Reading::of(&fleet).await else {
                    continue;
                };
                let skew = skew(asked, reading.now_us, now());
                for (at, what) in seen.told_by(&reading, fleet.probes) {
                    let at = at.saturating_add_signed(skew);
                    // Everybody may have hung up.
                    let _ = lines.send(Line::At {
                        at,
                        who: Who::Probes,
                        what,
                    });
                }
            }
        });
    }

    fn send(&self, line: Line) {
        // The printer lives as long as this does.
        let _ = self.lines.send(line);
    }
}

/// By how much the probes' clock is behind: nothing, unless their answer is from before the question or after its arrival.
fn skew(asked: Micros, answered: Micros, arrived: Micros) -> i64 {
    if (asked..=arrived).contains(&answered) {
        return 0;
    }
    let middle = asked.midpoint(arrived);
    i64::try_from(middle).unwrap_or(0) - i64::try_from(answered).unwrap_or(0)
}

fn tell(lines: &mpsc::UnboundedSender<Line>, who: Who, what: String) {
    // After the end nobody listens any more.
    let _ = lines.send(Line::At { at: now(), who, what });
}

fn applied<K>(api: kube::Api<K>, selection: watcher::Config) -> impl Stream<Item = K> + Send
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let stream = watcher(api, selection).default_backoff().applied_objects();
    stream.filter_map(async |object| object.ok())
}

async fn each<K>(objects: impl Stream<Item = K> + Send, mut act: impl FnMut(K) + Send) {
    let mut objects = std::pin::pin!(objects);
    while let Some(object) = objects.next().await {
        act(object);
    }
}

/// What has changed, in words.
fn told_by_status(before: &ProxyPairStatus, now: &ProxyPairStatus) -> Vec<String> {
    let mut told = Vec::new();
    for side in Side::BOTH {
        let Some(found) = now.side(side) else { continue };
        if before.side(side).map(|side| (side.health, side.cause)) != Some((found.health, found.cause)) {
            let cause = found.cause.map(|cause| format!(": {}", cause.as_str()));
            told.push(format!(
                "{} {}{}",
                side.label(),
                found.health.as_str(),
                cause.unwrap_or_default()
            ));
        }
    }
    if let Some(switching) = &now.switching
        && before.switching.is_none()
        && let Some(target) = now.target
    {
        told.push(format!(
            "{} to the {} has begun",
            switching.kind.as_str().to_lowercase(),
            target.label()
        ));
    }
    if now.serving != before.serving
        && let Some(serving) = now.serving
    {
        told.push(format!(
            "the {} serves, {} receives the events",
            serving.label(),
            now.object_server.as_deref().unwrap_or("nobody")
        ));
    }
    let waiting = |status: &ProxyPairStatus| status.failback.clone().map(|failback| failback.waiting_for);
    if let Some(words) = waiting(now)
        && !words.is_empty()
        && waiting(before).as_ref() != Some(&words)
    {
        told.push(format!("the failback waits: {}", words.join("; ")));
    }
    told
}

/// What has been told of the probes.
#[derive(Default)]
struct Probes {
    first_told: bool,
    on: Option<String>,
}

impl Probes {
    fn told_by(&mut self, reading: &Reading, all: u64) -> Vec<(Micros, String)> {
        let mut told = Vec::new();
        let Some(window) = reading.windows.last() else {
            return told;
        };
        if window.name == "failover"
            && !self.first_told
            && let Some(at) = window.first_by("AGG_B")
        {
            told.push((at, "the first event is acknowledged by AGG_B".to_owned()));
            self.first_told = true;
        }
        let count = |server: &str| reading.totals.sessions.get(server).copied().unwrap_or_default();
        let mut words: Vec<_> = ["AGG_P", "AGG_B"]
            .into_iter()
            .filter(|server| count(server) > 0)
            .map(|server| format!("{} on {server}", count(server)))
            .collect();
        let between = all.saturating_sub(count("AGG_P") + count("AGG_B"));
        if between > 0 {
            words.push(format!("{between} connecting"));
        }
        let on = words.join(", ");
        if self.on.as_ref() != Some(&on) {
            if self.on.is_some() {
                told.push((reading.now_us, on.clone()));
            }
            self.on = Some(on);
        }
        told
    }
}

async fn print(mut said: mpsc::UnboundedReceiver<Line>) {
    let mut held: Vec<Line> = Vec::new();
    let mut zero: Option<Micros> = None;
    let mut looks = interval(Duration::from_millis(50));
    loop {
        let ended = tokio::select! {
            line = said.recv() => match line {
                Some(Line::Title(words)) => {
                    release(&mut held, Micros::MAX, &mut zero);
                    zero = None;
                    println!("\n{words}\n");
                    false
                }
                Some(line) => {
                    held.push(line);
                    false
                }
                None => true,
            },
            _ = looks.tick() => false,
        };
        let until = if ended {
            Micros::MAX
        } else {
            now().saturating_sub(HOLD.as_micros() as u64)
        };
        release(&mut held, until, &mut zero);
        if ended {
            return;
        }
    }
}

/// Prints, in order, what happened before `until`.
fn release(held: &mut Vec<Line>, until: Micros, zero: &mut Option<Micros>) {
    held.sort_by_key(Line::at);
    let due = held.partition_point(|line| line.at() <= Some(until));
    for line in held.drain(..due) {
        let (at, who, what) = match line {
            Line::Zero { at, who, what } => {
                *zero = Some(at);
                (at, who, what)
            }
            Line::At { at, who, what } => (at, who, what),
            Line::Title(_) => continue,
        };
        let since = zero.map(|zero| format!("{:+.3} s", millis(zero, at) / 1000.0));
        println!(
            "  {}  {:>10}  {:<8} {what}",
            clock(at),
            since.unwrap_or_default(),
            who.word()
        );
    }
}

/// The time of day.
fn clock(at: Micros) -> String {
    let time = Timestamp::from_microsecond(i64::try_from(at).unwrap_or_default()).unwrap_or_default();
    time.to_zoned(TimeZone::system()).strftime("%H:%M:%S%.3f").to_string()
}
