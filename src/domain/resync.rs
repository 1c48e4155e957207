//! Whether the gateway has brought both ObjectServers back in sync, from what they say of themselves.
//!
//! What OMNIbus's automation does, in this order: the gateway loses the primary; on the backup `ActingPrimary` becomes TRUE; the primary
//! returns, the gateway attaches to it again and copies to it what it missed; on the backup `ActingPrimary` becomes FALSE.
//!
//! So *in sync* needs all of these, and each is believed only from answers that are fresh:
//!
//! 1. a gateway with the declared description is attached to the primary,
//! 2. one is attached to the backup,
//! 3. `ActingPrimary` is FALSE on the backup, **asked after** the gateway was seen on the primary. An earlier FALSE may be from before the
//!    gateway noticed the loss, and with no gateway attached the property says nothing.
//!
//! A gateway session that changes on the primary begins anew: whatever was true before, its resync may be ahead. So does one that was seen in a
//! check session that has ended: connection numbers start again with each process of the ObjectServer.

use std::time::{Duration, Instant};

use crate::api::Side;

/// A session of an ObjectServer gateway, from `catalog.connections`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewaySession {
    /// `ConnectionID`.
    pub id: String,
    /// `AppDescription`.
    pub description: String,
}

/// What an ObjectServer last said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// When it was asked.
    pub asked: Instant,
    /// When the answer had come.
    pub answered: Instant,
    /// The property `ActingPrimary`; `None` when it was not told.
    pub acting_primary: Option<bool>,
    /// Its gateway sessions; `None` when it was not asked for them; why it does not tell, in its words.
    pub gateways: Option<Result<Vec<GatewaySession>, String>>,
    /// Since when every answer showed the same gateway sessions, at least one of them with the declared description.
    pub attached_since: Option<Instant>,
}

impl ServerState {
    /// This state after `earlier`, with what runs on from there.
    #[must_use]
    pub fn after(self, earlier: Option<&Self>, description: &str, lasts: Duration) -> Self {
        let is_attached = attached(&self, description).is_some_and(|sessions| !sessions.is_empty());
        let runs_on = earlier.filter(|earlier| {
            attached(earlier, description) == attached(&self, description)
                && self.answered.saturating_duration_since(earlier.answered) <= lasts
        });
        let attached_since = is_attached.then(|| {
            runs_on
                .and_then(|earlier| earlier.attached_since)
                .unwrap_or(self.answered)
        });
        Self { attached_since, ..self }
    }

    /// The session ended in which it said so: the ObjectServer may have restarted, and its gateway's resync may be ahead. Its gateways must be
    /// seen anew.
    pub(super) fn end_session(&mut self) {
        self.gateways = None;
        self.attached_since = None;
    }

    fn is_fresh(&self, lasts: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) <= lasts
    }
}

fn attached<'a>(state: &'a ServerState, description: &str) -> Option<Vec<&'a GatewaySession>> {
    let sessions = state.gateways.as_ref()?.as_ref().ok()?;
    let mut ours: Vec<_> = sessions
        .iter()
        .filter(|session| session.description == description)
        .collect();
    ours.sort();
    Some(ours)
}

/// What is missing until both ObjectServers are resynchronised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A fresh answer of that ObjectServer.
    Answer(Side),
    /// It does not show its connections, in its own words: a permission, mostly.
    Sight(Side, String),
    /// No gateway is attached to it.
    Gateway(Side),
    /// Gateways are attached to it, and none has the declared description; theirs.
    Description(Side, Vec<String>),
    /// It does not tell the backup's `ActingPrimary`.
    Property,
    /// The resync has not finished: the backup ObjectServer acts as primary.
    ActingPrimary,
    /// One more answer of the backup, asked after the gateway was seen on the primary.
    Confirmation,
}

/// Says what is missing; nothing, when both ObjectServers are resynchronised.
///
/// `lasts` is how old an answer may be.
pub fn missing(
    primary: Option<&ServerState>,
    backup: Option<&ServerState>,
    description: &str,
    lasts: Duration,
    now: Instant,
) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut seen = |side, state: Option<&ServerState>| -> Option<Instant> {
        let state = state.filter(|state| state.is_fresh(lasts, now) && state.gateways.is_some());
        let what = match state.and_then(|state| state.gateways.as_ref()) {
            None => Missing::Answer(side),
            Some(Err(why)) => Missing::Sight(side, why.clone()),
            Some(Ok(sessions)) if sessions.iter().any(|session| session.description == description) => {
                return state.and_then(|state| state.attached_since);
            }
            Some(Ok(sessions)) if sessions.is_empty() => Missing::Gateway(side),
            Some(Ok(sessions)) => {
                let mut others: Vec<_> = sessions.iter().map(|session| session.description.clone()).collect();
                others.sort();
                others.dedup();
                Missing::Description(side, others)
            }
        };
        missing.push(what);
        None
    };
    let on_primary = seen(Side::Primary, primary);
    let on_backup = seen(Side::Backup, backup);
    let (Some(since), Some(_), Some(backup)) = (on_primary, on_backup, backup) else {
        return missing;
    };
    match backup.acting_primary {
        None => missing.push(Missing::Property),
        Some(true) => missing.push(Missing::ActingPrimary),
        Some(false) if backup.asked <= since => missing.push(Missing::Confirmation),
        Some(false) => {}
    }
    missing
}

#[cfg(test)]
mod tests;
