//! Supervision of one check. A check that panics, or that says nothing any more, has failed itself: what it said last does not stand for ever,
//! but becomes *unseen*, and the check is started again.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::Observed;
use crate::{
    api::Side,
    check::{Check, Observation},
    domain::{evidence::Timing, machine::Source},
    foreign::panic_words,
};

/// Time from the end of a check that has failed to its next start.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How much later than its timing demands a check may speak: the operator's machine may be busy.
const MARGIN: Duration = Duration::from_secs(5);

/// Where the observations of some checks go, and what is put on them.
#[derive(Clone)]
pub struct Recipient {
    pub side: Side,
    pub source: Source,
    pub number: u64,
    pub out: mpsc::Sender<Observed>,
}

/// The receiver is gone.
pub struct Gone;

impl Recipient {
    pub async fn send(&self, observation: Observation) -> Result<(), Gone> {
        let observed = Observed {
            side: self.side,
            source: self.source.clone(),
            number: self.number,
            observation,
        };
        self.out.send(observed).await.map_err(|_| Gone)
    }
}

/// How long a check may say nothing: it speaks at least each interval while it works.
pub fn silence_limit(timing: &Timing) -> Duration {
    timing.interval + timing.unresponsive_after + MARGIN
}

/// Runs the check that `start` makes, and starts it again when it fails. Ends when the check ends by itself, or with the recipient.
pub async fn supervise<F>(
    check: Check,
    limit: Duration,
    recipient: Recipient,
    start: impl Fn(mpsc::Sender<Observation>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let (out, observations) = mpsc::channel(16);
        let task = AbortOnDropHandle::new(tokio::spawn(start(out).in_current_span()));
        let Ok(Some(why)) = relay(task, observations, limit, &recipient).await else {
            return;
        };
        let side = recipient.side.label();
        tracing::error!(
            check = check.label(),
            side,
            why,
            "a check has failed and is started again"
        );
        let message = format!("the {} check itself has failed: {why}", check.label());
        if let Err(Gone) = recipient.send(Observation::Restarted { check, message }).await {
            return;
        }
        sleep(RESTART_AFTER).await;
    }
}

/// Passes on what a check observes. Returns why it has failed; `None` if it has ended.
async fn relay(
    task: AbortOnDropHandle<()>,
    mut observations: mpsc::Receiver<Observation>,
    limit: Duration,
    recipient: &Recipient,
) -> Result<Option<String>, Gone> {
    loop {
        match timeout(limit, observations.recv()).await {
            Ok(Some(Observation::Unchanged(_))) if !recipient.out.is_closed() => {}
            Ok(Some(observation)) => recipient.send(observation).await?,
            Ok(None) => return Ok(task.await.err().and_then(panic_of)),
            Err(_) => return Ok(Some(format!("it has reported nothing for {limit:?}"))),
        }
    }
}

/// The words of a panic; `None` if the task was only ended.
fn panic_of(error: tokio::task::JoinError) -> Option<String> {
    Some(panic_words(&*error.try_into_panic().ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time;

    use super::*;
    use crate::{
        domain::evidence::Link,
        telemetry::{capture::CapturedLog, pair_span},
    };

    const LIMIT: Duration = Duration::from_secs(20);
    const DEADLINE: Duration = Duration::from_secs(3600);

    fn recipient() -> (Recipient, mpsc::Receiver<Observed>) {
        let (out, observed) = mpsc::channel(16);
        let recipient = Recipient {
            side: Side::Primary,
            source: Source::Server,
            number: 3,
            out,
        };
        (recipient, observed)
    }

    async fn next(observed: &mut mpsc::Receiver<Observed>) -> Observation {
        let observed = timeout(DEADLINE, observed.recv()).await.expect("nothing observed");
        let observed = observed.expect("the supervision has ended");
        assert_eq!((observed.side, observed.number), (Side::Primary, 3));
        observed.observation
    }

    fn restarted(observation: Observation) -> String {
        match observation {
            Observation::Restarted {
                check: Check::Direct,
                message,
            } => message,
            other => panic!("{other:?}"),
        }
    }

    const ANSWERING: Observation = Observation::Link(Check::Direct, Link::Answering);

    #[tokio::test(start_paused = true)]
    async fn a_check_that_panics_is_unseen_and_started_again() {
        let (recipient, mut observed) = recipient();
        let starts = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&starts);
        tokio::spawn(supervise(Check::Direct, LIMIT, recipient, move |out| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                out.send(ANSWERING).await.unwrap();
                assert!(number > 0, "the first one fails");
                out.closed().await;
            }
        }));
        assert!(matches!(next(&mut observed).await, Observation::Link(..)));
        let message = restarted(next(&mut observed).await);
        assert_eq!(message, "the direct check itself has failed: the first one fails");
        assert!(matches!(next(&mut observed).await, Observation::Link(..)));
        assert_eq!(starts.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_check_logs_names_the_pair() {
        let log = CapturedLog::begin();
        let (recipient, _observed) = recipient();
        let check = |_| async { tracing::info!("about to look") };
        supervise(Check::Direct, LIMIT, recipient, check)
            .instrument(pair_span("netcool", "proxy-v"))
            .await;
        log.assert_names_pair("netcool", "proxy-v", &["about to look"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_says_nothing_any_more_is_unseen_and_started_again() {
        let (recipient, mut observed) = recipient();
        tokio::spawn(supervise(Check::Direct, LIMIT, recipient, |out| async move {
            out.send(ANSWERING).await.unwrap();
            for _ in 0..100 {
                sleep(LIMIT / 2).await;
                out.send(Observation::Unchanged(Check::Direct)).await.unwrap();
            }
            std::future::pending::<()>().await;
        }));
        assert!(matches!(next(&mut observed).await, Observation::Link(..)));
        let began = time::Instant::now();
        let message = restarted(next(&mut observed).await);
        assert_eq!(began.elapsed(), LIMIT * 51);
        assert!(message.contains("reported nothing for 20s"), "{message}");
        assert!(matches!(next(&mut observed).await, Observation::Link(..)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_check_and_with_the_recipient() {
        let (to, observed) = recipient();
        timeout(DEADLINE, supervise(Check::Direct, LIMIT, to, |_| async {}))
            .await
            .expect("it goes on without a check");

        drop(observed);
        let (to, observed) = recipient();
        drop(observed);
        let endless = |out: mpsc::Sender<Observation>| async move {
            while out.send(ANSWERING).await.is_ok() {
                sleep(LIMIT / 2).await;
            }
        };
        timeout(DEADLINE, supervise(Check::Direct, LIMIT, to, endless))
            .await
            .expect("it goes on without a recipient");
    }
}
