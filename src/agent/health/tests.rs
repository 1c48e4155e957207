use super::{
    super::watch::{BELIEVED_FOR, Blind},
    *,
};

fn health(now: Instant) -> (watch::Sender<Known>, Health) {
    let (known_in, known) = watch::channel(Known::nothing(now));
    (known_in, Health::new(known))
}

fn read(known: &mut Known) {
    known.has_been_read = true;
    known.blind = None;
}

#[tokio::test]
async fn is_ready_when_the_kernel_has_been_looked_at_and_the_cluster_read() {
    let now = Instant::now();
    let (known, health) = health(now);
    assert!(health.readiness(now).unwrap_err().contains("the kernel"));
    health.kernel.send_replace(None);
    assert!(health.readiness(now).unwrap_err().contains("have not been read yet"));
    known.send_modify(read);
    assert_eq!(health.readiness(now), Ok(()));
}

#[tokio::test]
async fn says_what_keeps_it_from_its_work() {
    let now = Instant::now();
    let (known, health) = health(now);
    known.send_modify(read);
    health.kernel.send_replace(None);
    health.rounds.send_replace(Some("no dump".to_owned()));
    assert_eq!(health.readiness(now), Err("no dump".to_owned()));
    health.kernel.send_replace(Some("no connection table".to_owned()));
    assert_eq!(health.readiness(now), Err("no connection table".to_owned()));
}

#[tokio::test]
async fn stays_ready_for_as_long_as_what_it_has_read_is_believed() {
    let now = Instant::now();
    let (known, health) = health(now);
    health.kernel.send_replace(None);
    known.send_modify(|known| {
        known.has_been_read = true;
        known.blind = Some(Blind {
            since: now,
            reason: "Services cannot be read".to_owned(),
        });
    });
    assert_eq!(health.readiness(now + BELIEVED_FOR / 2), Ok(()));
    assert_eq!(
        health.readiness(now + BELIEVED_FOR),
        Err("Services cannot be read".to_owned())
    );
}
