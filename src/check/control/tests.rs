//! The session with a gate that is played by the test, on paused time. Lines are compared as text: they are the protocol.

use serde_json::{Value, json};
use tokio::{
    io::{DuplexStream, duplex},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::domain::evidence::Fault;

const SECOND: Duration = Duration::from_secs(1);

/// Time that passes on the paused clock before a test fails that waits in vain.
const DEADLINE: Duration = Duration::from_secs(3600);

const TIMING: Timing = Timing {
    interval: SECOND,
    unreachable_after: SECOND,
    unresponsive_after: Duration::from_secs(12),
    lost_after: Duration::from_secs(1),
    healthy_after: Duration::ZERO,
};

/// The gate's half of one session.
struct Gate(Framed<DuplexStream, LinesCodec>);

impl Gate {
    async fn line(&mut self) -> Value {
        let line = timeout(DEADLINE, self.0.next()).await.expect("no line");
        let line = line.expect("the session has ended").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn hello(&mut self) {
        let expected = json!({"type": "Hello", "holder": "operator-1", "term": 7});
        assert_eq!(self.line().await, expected);
    }

    /// Reads a ping. Returns its nonce.
    async fn ping(&mut self) -> u64 {
        let line = self.line().await;
        assert_eq!(line["type"], "Ping", "{line}");
        line["nonce"].as_u64().unwrap()
    }

    async fn send(&mut self, line: &str) {
        self.0.send(line).await.unwrap();
    }

    async fn report(&mut self, more: Value) {
        let mut report = json!({
            "gate": "PROXY_P", "objectServer": "AGG_P", "instance": "00ff", "sequence": 1, "admission": "Open", "sessions": 5,
            "draining": 0, "upstream": {"state": "Reachable"}, "leaving": false,
        });
        report
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.send(&report.to_string()).await;
    }

    async fn answer(&mut self, nonce: u64) {
        self.report(json!({"answers": nonce})).await;
    }
}

/// A control check whose connections are given to it by the test.
struct Stage {
    dialled: mpsc::UnboundedSender<Result<DuplexStream, Failure>>,
    commands: watch::Sender<GateCommands>,
    seen: mpsc::Receiver<Observation>,
    check: JoinHandle<()>,
}

impl Stage {
    fn set() -> Self {
        let (out, seen) = mpsc::channel(64);
        let (dialled, attempts) = mpsc::unbounded_channel();
        let commands = watch::Sender::new(GateCommands {
            holder: "operator-1".to_owned(),
            term: 7,
            command: None,
            number: 0,
            ask: 0,
            look_at: Vec::new(),
            question: 0,
        });
        let received = commands.subscribe();
        let attempts = tokio::sync::Mutex::new(attempts);
        let check = tokio::spawn(async move {
            let dial = async || attempts.lock().await.recv().await.unwrap();
            let Err(ConsumerGone) = hold(&TIMING, dial, received, out).await;
        });
        Self {
            dialled,
            commands,
            seen,
            check,
        }
    }

    /// Lets the check connect to a gate.
    fn gate(&self) -> Gate {
        let (near, far) = duplex(4096);
        self.dialled.send(Ok(near)).unwrap();
        Gate(Framed::new(far, LinesCodec::new()))
    }

    fn command(&self, command: Request) {
        self.commands.send_modify(|commands| {
            commands.command = Some(command);
            commands.number += 1;
        });
    }

    /// The next observation, but for those that nothing has changed.
    async fn next(&mut self) -> Option<Observation> {
        let next = async {
            loop {
                match self.seen.recv().await {
                    Some(Observation::Unchanged(_)) => {}
                    observation => return observation,
                }
            }
        };
        timeout(DEADLINE, next).await.expect("no observation")
    }

    async fn link(&mut self) -> Link {
        match self.next().await {
            Some(Observation::Link(Check::Control, link)) => link,
            other => panic!("no link: {other:?}"),
        }
    }

    async fn report(&mut self) -> (Instant, Report) {
        match self.next().await {
            Some(Observation::Report { at, report }) => (at, report),
            other => panic!("no report: {other:?}"),
        }
    }

    /// A session in which the gate has answered the first ping.
    async fn session(&mut self) -> Gate {
        let mut gate = self.gate();
        gate.hello().await;
        let nonce = gate.ping().await;
        gate.answer(nonce).await;
        self.report().await;
        assert_eq!(self.link().await, Link::Answering);
        gate
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_begins_with_holder_and_term_and_pings_at_least_twice_within_lost_after() {
    let mut stage = Stage::set();
    let began = now();
    let mut gate = stage.gate();
    gate.hello().await;
    for n in 0..5 {
        let nonce = gate.ping().await;
        assert_eq!((nonce, now() - began), (u64::from(n) + 1, TIMING.lost_after / 2 * n));
        gate.answer(nonce).await;
        let (at, report) = stage.report().await;
        assert_eq!((at, report.sessions, report.answers), (now(), 5, Some(nonce)));
        if n == 0 {
            assert_eq!(stage.link().await, Link::Answering);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_is_sent_once_with_a_ping_behind_it_and_again_on_each_new_session() {
    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    stage.command(Request::Drop);
    assert_eq!(gate.line().await, json!({"type": "Drop"}));
    gate.ping().await;
    // Whatever else changes, it is not sent again.
    stage.commands.send_modify(|commands| commands.ask += 1);
    gate.ping().await;
    drop(gate);

    let mut gate = stage.gate();
    gate.hello().await;
    assert_eq!(gate.line().await, json!({"type": "Drop"}));
    gate.ping().await;
    stage.command(Request::Admit);
    assert_eq!(gate.line().await, json!({"type": "Admit"}));
    gate.ping().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_can_be_asked_for_between_two_pings() {
    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    let before = now();
    stage.commands.send_modify(|commands| commands.ask += 1);
    gate.ping().await;
    assert_eq!(now(), before);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_given_again_is_sent_again() {
    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    for _ in 0..3 {
        stage.command(Request::Admit);
        assert_eq!(gate.line().await, json!({"type": "Admit"}));
        let nonce = gate.ping().await;
        gate.answer(nonce).await;
        stage.report().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_command_reaches_the_consumer_in_the_report() {
    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    stage.command(Request::Admit);
    assert_eq!(gate.line().await, json!({"type": "Admit"}));
    gate.report(json!({"refusedOrder": "a higher term is known"})).await;
    let (_, report) = stage.report().await;
    let report = serde_json::to_value(report).unwrap();
    assert_eq!(report["refusedOrder"], "a higher term is known", "{report}");
}

#[tokio::test(start_paused = true)]
async fn silence_is_reported_when_an_answer_is_late_with_the_moment_of_the_ping() {
    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    let first = gate.ping().await;
    let since = now();
    assert_eq!(stage.link().await, Link::Silent { since });
    assert_eq!(now() - since, SUSPECTED_AFTER);
    // A silent gate is not asked more than twice, however long that takes; the test goes on between two ticks.
    let second = gate.ping().await;
    let asked_again = now();
    let more = timeout(60 * SECOND + TIMING.lost_after / 4, gate.line()).await;
    assert!(more.is_err(), "{more:?}");
    // An answer ends the silence before it. It answers again only when it has answered everything.
    gate.answer(first).await;
    stage.report().await;
    assert_eq!(stage.link().await, Link::Silent { since: asked_again });
    gate.answer(second).await;
    stage.report().await;
    assert_eq!(stage.link().await, Link::Answering);
}

#[tokio::test(start_paused = true)]
async fn a_silence_that_lasts_is_said_to_last() {
    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    gate.ping().await;
    let since = now();
    assert_eq!(stage.link().await, Link::Silent { since });
    for _ in 0..20 {
        let next = timeout(TIMING.interval * 2, stage.seen.recv()).await.unwrap();
        assert!(matches!(next, Some(Observation::Unchanged(Check::Control))), "{next:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_gate_repeats_of_others_is_cut_and_escaped() {
    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    let long = "x\u{1b}".repeat(2000);
    gate.report(json!({
        "upstream": {"state": "Unreachable", "cause": "Refused", "message": long},
        "listenError": long, "refusedOrder": long,
    }))
    .await;
    let (_, report) = stage.report().await;
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.len() < 5000 && !text.contains("\\u001b"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_this_machine_is_no_failure_of_the_gate() {
    let mut stage = Stage::set();
    stage.dialled.send(Err(Failure::unseen("Too many open files"))).unwrap();
    let link = stage.link().await;
    assert!(
        matches!(&link, Link::Unseen { message } if message == "Too many open files"),
        "{link:?}"
    );
    stage.session().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_fails_only_if_the_next_attempt_fails_too() {
    let mut stage = Stage::set();
    let gate = stage.session().await;
    drop(gate);
    let mut gate = stage.gate();
    gate.hello().await;
    let nonce = gate.ping().await;
    gate.answer(nonce).await;
    stage.report().await;
    assert_eq!(stage.link().await, Link::Answering);

    sleep(TIMING.interval / 4).await;
    let ended = now();
    drop(gate);
    stage.dialled.send(Err(Failure::connection("refused"))).unwrap();
    let Link::Failed { since, fault, message } = stage.link().await else {
        panic!("not failed")
    };
    assert_eq!((since, fault, message.as_str()), (ended, Fault::Connection, "refused"));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_in_silence_failed_when_the_silence_began() {
    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    gate.ping().await;
    let since = now();
    assert_eq!(stage.link().await, Link::Silent { since });
    sleep(TIMING.interval * 3).await;
    drop(gate);
    stage.dialled.send(Err(Failure::connection("refused"))).unwrap();
    let link = stage.link().await;
    assert!(
        matches!(link, Link::Failed { since: failed, .. } if failed == since),
        "{link:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_report_ends_the_session_and_the_attempt_fails() {
    let mut stage = Stage::set();
    let mut gate = stage.gate();
    gate.hello().await;
    gate.send("not JSON").await;
    let Link::Failed { message, .. } = stage.link().await else {
        panic!("not failed")
    };
    assert!(message.starts_with("failed to parse the gate's report: "), "{message}");
    // The next attempt is made after a short while.
    stage.session().await;
}

#[tokio::test(start_paused = true)]
async fn the_check_ends_when_nobody_receives_its_observations_or_sends_commands() {
    let stage = Stage::set();
    let mut gate = stage.gate();
    gate.hello().await;
    drop(stage.commands);
    timeout(DEADLINE, stage.check)
        .await
        .expect("the check goes on")
        .unwrap();

    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    stage.seen.close();
    let nonce = gate.ping().await;
    gate.answer(nonce).await;
    timeout(DEADLINE, stage.check)
        .await
        .expect("the check goes on")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_answers_everything_late_is_never_silent_for_longer_than_an_answer_takes() {
    let mut stage = Stage::set();
    let mut gate = stage.session().await;
    let takes = 2 * SECOND;
    let mut asked = std::collections::VecDeque::new();
    let begun = now();
    let mut silent = None;
    while now() < begun + 60 * SECOND {
        asked.push_back((gate.ping().await, now()));
        // The next one is on its way already.
        if asked.len() == UNANSWERED_MAX
            && let Some((nonce, sent)) = asked.pop_front()
        {
            sleep((sent + takes).saturating_duration_since(now())).await;
            gate.answer(nonce).await;
        }
        while let Ok(observation) = stage.seen.try_recv() {
            if let Observation::Link(_, link) = observation {
                silent = link.silent_since();
            }
        }
        let lasts = silent.map_or(Duration::ZERO, |since| now() - since);
        assert!(lasts < takes + SECOND, "silent for {lasts:?}");
    }
}
