//! ServerInfo in status and metrics what is known.

use std::time::{Duration, Instant};

use kube::{Api, api::PostParams};

use super::actor::{Actor, read_clocks};
use crate::{
    api::{Health, ProxyPair, ProxyPairStatus, Side},
    controller::apply::{ApplyError, within_deadline},
    domain::status::{self, SideKnown},
    health::{Finding, index},
    metrics::SideLabels,
};

/// A status that differs in numbers of sessions alone is written so often at the most.
const COUNTS_EVERY: Duration = Duration::from_secs(2);

impl Actor {
    /// Writes the status if it has changed; numbers of sessions alone not too often.
    pub(super) async fn keep_status(&mut self, finding: &Finding) -> Result<Option<Instant>, ApplyError> {
        self.count(finding);
        let before = self.object.status.clone().unwrap_or_default();
        let next = self.rendered(finding, &before);
        if next == before {
            return Ok(None);
        }
        let due = self
            .written_at
            .map(|at| at + COUNTS_EVERY)
            .filter(|due| *due > Instant::now());
        if let Some(due) = due.filter(|_| without_counts(&next) == without_counts(&before)) {
            return Ok(Some(due));
        }
        self.write(next).await?;
        Ok(None)
    }

    pub(super) async fn write_status(&mut self, finding: &Finding) -> Result<(), ApplyError> {
        let before = self.object.status.clone().unwrap_or_default();
        let next = self.rendered(finding, &before);
        self.write(next).await
    }

    fn rendered(&self, finding: &Finding, before: &ProxyPairStatus) -> ProxyPairStatus {
        let side = |side: Side| {
            let found = &finding.sides[index(side)];
            SideKnown {
                health: &found.health,
                sessions: found.sessions,
                acting_primary: found.acting_primary,
                expiry: found.expiry,
            }
        };
        let known = status::Known {
            pair: &self.pair,
            routing: &self.routing,
            switching: self.switching.as_ref(),
            sides: [side(Side::Primary), side(Side::Backup)],
            decision: &finding.decision,
            problem: self.problem.as_ref(),
            finished: self.finished.clone(),
        };
        status::render(&known, before, read_clocks())
    }

    async fn write(&mut self, status: ProxyPairStatus) -> Result<(), ApplyError> {
        self.context.claim()?;
        let api: Api<ProxyPair> = Api::namespaced(self.context.client.clone(), &self.pair.namespace);
        let object = ProxyPair {
            status: Some(status),
            ..self.object.clone()
        };
        self.object = within_deadline(api.replace_status(&self.pair.name, &PostParams::default(), &object)).await?;
        self.written_at = Some(Instant::now());
        Ok(())
    }

    fn count(&self, finding: &Finding) {
        for side in Side::BOTH {
            let labels = SideLabels {
                namespace: self.pair.namespace.clone(),
                pair: self.pair.name.clone(),
                side: side.label(),
            };
            let found = &finding.sides[index(side)];
            self.context
                .metrics
                .side_up
                .get_or_create(&labels)
                .set(i64::from(found.health.health == Health::Up));
            self.context
                .metrics
                .sessions
                .get_or_create(&labels)
                .set(i64::from(found.sessions));
        }
    }
}

fn without_counts(status: &ProxyPairStatus) -> ProxyPairStatus {
    let mut status = status.clone();
    status.connections = 0;
    for side in [&mut status.primary, &mut status.backup].into_iter().flatten() {
        side.connections = 0;
    }
    if let Some(failback) = &mut status.failback {
        failback.connections_remaining = failback.connections_remaining.min(1);
    }
    status
}
