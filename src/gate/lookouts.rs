//! The other gates that this one looks at for the operator.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    lookout::{Look, look_at},
    protocol::{LookAt, Sight},
};

/// Most gates that this one looks at: three on each side, and their successors.
const MOST: usize = 12;

/// What this gate looks at, and what it sees. It outlives the operator's connection, so that a new leader finds what was seen before.
#[derive(Debug, Default)]
pub struct Lookouts {
    running: Mutex<BTreeMap<SocketAddr, Lookout>>,
    sights: watch::Sender<BTreeMap<SocketAddr, Look>>,
}

#[derive(Debug)]
struct Lookout {
    question: watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Lookouts {
    /// Looks at these gates from now on, and at no others.
    pub fn set(&self, wanted: &[LookAt]) {
        let wanted = &wanted[..wanted.len().min(MOST)];
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = |address: &SocketAddr| wanted.iter().any(|look| look.address == *address);
        running.retain(|address, _| is_wanted(address));
        self.sights.send_if_modified(|sights| {
            let before = sights.len();
            sights.retain(|address, _| is_wanted(address));
            sights.len() != before
        });
        for LookAt { address, question } in wanted {
            let lookout = running
                .entry(*address)
                .or_insert_with(|| self.begin(*address, *question));
            lookout
                .question
                .send_if_modified(|asked| std::mem::replace(asked, *question) != *question);
        }
    }

    /// Asks nothing any more, and goes on looking now and then.
    pub fn calm(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for lookout in running.values() {
            lookout.question.send_if_modified(|asked| std::mem::take(asked) != 0);
        }
    }

    fn begin(&self, address: SocketAddr, question: u64) -> Lookout {
        let (question, asked) = watch::channel(question);
        let sights = self.sights.clone();
        let show = move |look| {
            sights.send_if_modified(|sights| sights.insert(address, look) != Some(look));
        };
        Lookout {
            question,
            _task: AbortOnDropHandle::new(tokio::spawn(look_at(address, asked, show))),
        }
    }

    /// Changes of what is seen.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeMap<SocketAddr, Look>> {
        self.sights.subscribe()
    }

    /// What is seen now, for a report.
    #[must_use]
    pub fn sights(&self) -> Vec<Sight> {
        let sights = self.sights.borrow();
        let sight = |(address, look): (&SocketAddr, &Look)| Sight {
            address: *address,
            question: look.question,
            seen: look.seen,
        };
        sights.iter().map(sight).collect()
    }
}
