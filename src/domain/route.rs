//! Where new connections to the virtual Service lead, as the operator observes it: EndpointSlices say what is wanted, this what nodes do.

use std::time::{Duration, Instant};

use crate::api::Side;

/// Where one connection to the virtual Service led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a gate of this side.
    To(Side),
    /// Nobody answered, or not with a name that is known.
    Unseen,
}

/// Connections in a row that must lead to the serving side. kube-proxy picks an endpoint at random while it knows both.
const IN_A_ROW: u32 = 3;
/// An observation that is older than this counts as none.
const LASTS: Duration = Duration::from_secs(5);

/// What was observed since the operator began to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteEvidence(Option<Run>);

/// The newest observations that agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    side: Side,
    length: u32,
    newest: Instant,
}

impl RouteEvidence {
    /// Takes in one observation.
    pub fn take(&mut self, route: Route, now: Instant) {
        self.0 = match route {
            Route::Unseen => None,
            Route::To(side) => {
                let before = self.current(now).filter(|run| run.side == side);
                Some(Run {
                    side,
                    length: before.map_or(1, |run| run.length.saturating_add(1)),
                    newest: now,
                })
            }
        };
    }

    /// Whether nothing that was observed speaks against ending the sessions on the side that does not serve.
    #[must_use]
    pub fn allows_drain(&self, serving: Side, now: Instant) -> bool {
        self.current(now)
            .is_none_or(|run| run.side == serving && run.length >= IN_A_ROW)
    }

    /// Whether new connections still lead to the side that does not serve.
    #[must_use]
    pub fn leads_away_from(&self, serving: Side, now: Instant) -> bool {
        self.current(now).is_some_and(|run| run.side != serving)
    }

    /// When this changes although nothing is observed.
    #[must_use]
    pub fn expires(&self, now: Instant) -> Option<Instant> {
        self.current(now).map(|run| run.newest + LASTS)
    }

    fn current(&self, now: Instant) -> Option<Run> {
        self.0.filter(|run| now < run.newest + LASTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Side = Side::Backup;
    const OLD: Side = Side::Primary;

    fn after(routes: &[Route]) -> (RouteEvidence, Instant) {
        let now = Instant::now();
        let mut evidence = RouteEvidence::default();
        for route in routes {
            evidence.take(*route, now);
        }
        (evidence, now)
    }

    #[test]
    fn a_route_that_nobody_sees_is_left_to_the_time() {
        for routes in [&[][..], &[Route::Unseen], &[Route::To(OLD), Route::Unseen]] {
            let (evidence, now) = after(routes);
            assert!(evidence.allows_drain(NEW, now), "{routes:?}");
        }
    }

    #[test]
    fn the_old_side_is_drained_when_three_connections_in_a_row_lead_to_the_new_one() {
        let (old, new) = (Route::To(OLD), Route::To(NEW));
        for (routes, allowed) in [
            (&[old][..], false),
            (&[old, new, new], false),
            (&[old, new, new, new], true),
            (&[new, new, old, new], false),
            (&[new, new, new, old], false),
        ] {
            let (evidence, now) = after(routes);
            assert_eq!(evidence.allows_drain(NEW, now), allowed, "{routes:?}");
        }
    }

    #[test]
    fn an_observation_does_not_count_for_ever() {
        let (evidence, now) = after(&[Route::To(OLD)]);
        assert!(evidence.leads_away_from(NEW, now));
        assert_eq!(evidence.expires(now), Some(now + LASTS));
        assert!(!evidence.leads_away_from(NEW, now + LASTS));
        assert!(evidence.allows_drain(NEW, now + LASTS));
    }
}
