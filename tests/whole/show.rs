//! What has changed, for the timeline and for the rules.

use std::time::Duration;

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Pod, Service},
};
use kube::ResourceExt;
use proxypair::api::{LABEL_ROUTED, LABEL_SIDE, NOT_ROUTED, ProxyPair, ProxyPairStatus, Side};

use super::{
    kubernetes::NAMESPACE,
    world::{LEASE, PAIR, World},
};

impl World {
    /// The side that the virtual Service selects.
    pub fn selects(&self) -> Option<Side> {
        let service = self.api.get::<Service>(NAMESPACE, PAIR)?;
        let selector = service.spec?.selector?;
        match selector.get(LABEL_SIDE)?.as_str() {
            "primary" => Some(Side::Primary),
            _ => Some(Side::Backup),
        }
    }

    /// The status of the pair as it is stored.
    pub fn status(&self) -> Option<ProxyPairStatus> {
        let pair = self.api.json::<ProxyPair>(NAMESPACE, PAIR)?;
        // The spec may be what nobody can read.
        serde_json::from_value(pair["status"].clone()).ok()
    }

    /// Adds to the log what has changed.
    pub(super) fn show(&mut self, now: Duration) {
        let connected: Vec<_> = self.probes.iter().map(|probe| probe.borrow().connected).collect();
        let versions = [
            self.api.version_of::<Lease>(),
            self.api.version_of::<Service>(),
            self.api.version_of::<Pod>(),
            self.api.version_of::<ProxyPair>(),
        ];
        let before = std::mem::replace(&mut self.seen, (versions, connected));
        if before.0[0] != versions[0] {
            self.look_at_lease(now);
        }
        if before.0[1..] == versions[1..] && before.1 == self.seen.1 {
            return;
        }
        let selects = self.selects();
        if selects.is_none() {
            self.selected.clear();
        }
        if let Some(side) = selects
            && self.selected.last().is_none_or(|(_, last)| *last != side)
        {
            self.selected.push((now, side));
        }
        let status = self.status().unwrap_or_default();
        let mut shown = vec![
            format!("the Service selects {selects:?}"),
            format!("status: serving {:?} target {:?}", status.serving, status.target),
        ];
        for condition in &status.conditions {
            shown.push(format!(
                "{} is {} ({})",
                condition.type_, condition.status, condition.reason
            ));
        }
        for pod in self.kubernetes.pods().values() {
            if pod
                .labels()
                .get(LABEL_ROUTED)
                .is_some_and(|routed| routed == NOT_ROUTED)
            {
                shown.push(format!("pod {} is taken out", pod.name_any()));
            }
        }
        for (number, probe) in self.probes.iter().enumerate() {
            let gate = probe.borrow().connected.map(|gate| gate.ip());
            shown.push(format!("probe {number} is connected to {gate:?}"));
        }
        for line in &shown {
            if !self.shown.contains(line) {
                self.log.say(now, line);
            }
        }
        self.shown = shown;
    }

    fn look_at_lease(&mut self, now: Duration) {
        let spec = self.api.get::<Lease>(NAMESPACE, LEASE).and_then(|lease| lease.spec);
        let holder = spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        let renewed = spec.and_then(|spec| spec.renew_time);
        if renewed == self.renewed {
            return;
        }
        self.renewed = renewed;
        let Some(holder) = holder else {
            self.leader = None;
            return;
        };
        let since = match &self.leader {
            Some((known, since, _)) if *known == holder => *since,
            _ => {
                self.log.say(now, format_args!("{holder} leads"));
                now
            }
        };
        self.leader = Some((holder, since, now));
    }
}
