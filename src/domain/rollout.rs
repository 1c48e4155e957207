//! Which side may get a changed pod template now, so that both are never replaced at once.
//!
//! 1. The idle side gets it at once: nobody is served there.
//! 2. The serving side gets it when the idle side is up with it, and no switch is under way.
//!
//! A side whose Secret or ConfigMap is missing keeps the pod that it has: a new one could not start.
//!
//! A new image of the gates comes to all pairs at once, with the operator. [`updates`](super::updates) decides which pairs may have it.

use crate::api::{Health, Side, Sides};

/// What is declared and found for one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The template that is declared.
    pub wanted: Option<String>,
    /// The template of the Deployment that exists; `None` when there is none.
    pub found: Option<String>,
    /// Its pod could not start.
    pub held_back: bool,
    /// The pair may not have the operator's new image yet.
    pub postponed: bool,
}

/// What the worker knows of the pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the traffic is.
    pub serving: Option<Side>,
    /// No switch is under way.
    pub is_settled: bool,
    /// The side that the virtual Service is to select.
    pub selected: Option<Side>,
    /// Health of each side.
    pub health: Sides<Option<Health>>,
    /// The template of the pod that stands for each side.
    pub template: Sides<Option<String>>,
    /// The proxy of the side works: the side is up, or its ObjectServer is what keeps it down.
    pub proxy_works: Sides<bool>,
}

/// What to do with the Deployment of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutStep {
    /// Apply what is declared.
    Apply,
    /// Leave it as it is until what it needs is there.
    HoldBack,
    /// Leave it as it is until the other side is up with its own.
    Wait,
    /// Leave it as it is until the new image works for other pairs.
    Postpone,
}

/// The next step for both sides. While nothing is known of the pair, `fallback` counts as the serving side.
#[must_use]
pub fn next(templates: &Sides<Template>, snapshot: &Snapshot, fallback: Side) -> Sides<RolloutStep> {
    let serving = snapshot.serving.unwrap_or(fallback);
    let idle = serving.other();
    let idle_has_it = snapshot.is_settled
        && snapshot.serving == Some(serving)
        && snapshot.health[idle] == Some(Health::Up)
        && snapshot.template[idle] == templates[idle].wanted;
    Sides::from_fn(|side| {
        let Template {
            wanted,
            found,
            held_back,
            postponed,
        } = &templates[side];
        let changes = found.is_some() && found != wanted;
        if *held_back {
            RolloutStep::HoldBack
        } else if *postponed && changes {
            RolloutStep::Postpone
        } else if side == serving && changes && !idle_has_it {
            RolloutStep::Wait
        } else {
            RolloutStep::Apply
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(wanted: &str, found: Option<&str>) -> Template {
        Template {
            wanted: Some(wanted.to_owned()),
            found: found.map(str::to_owned),
            held_back: false,
            postponed: false,
        }
    }

    fn rolling() -> Sides<Template> {
        Sides {
            primary: template("new", Some("old")),
            backup: template("new", Some("old")),
        }
    }

    fn settled(serving: Side, idle_runs: &str, idle_health: Health) -> Snapshot {
        let mut snapshot = Snapshot {
            serving: Some(serving),
            is_settled: true,
            selected: Some(serving),
            ..Snapshot::default()
        };
        snapshot.health[serving] = Some(Health::Up);
        snapshot.health[serving.other()] = Some(idle_health);
        snapshot.template[serving.other()] = Some(idle_runs.to_owned());
        snapshot
    }

    #[test]
    fn the_idle_side_is_first_and_the_serving_side_waits_until_it_is_up_with_it() {
        for serving in Side::BOTH {
            let steps = |snapshot: &Snapshot| next(&rolling(), snapshot, Side::Primary);
            let before = steps(&settled(serving, "old", Health::Up));
            assert_eq!(
                (before[serving.other()], before[serving]),
                (RolloutStep::Apply, RolloutStep::Wait)
            );
            let starting = steps(&settled(serving, "new", Health::Down));
            assert_eq!(starting[serving], RolloutStep::Wait);
            let done = steps(&settled(serving, "new", Health::Up));
            assert_eq!(done[serving], RolloutStep::Apply);
        }
    }

    #[test]
    fn nothing_is_replaced_on_the_serving_side_during_a_switch_or_before_anything_is_known() {
        let during = Snapshot {
            is_settled: false,
            ..settled(Side::Primary, "new", Health::Up)
        };
        assert_eq!(next(&rolling(), &during, Side::Primary).primary, RolloutStep::Wait);
        let unknown = next(&rolling(), &Snapshot::default(), Side::Backup);
        assert_eq!(
            (unknown.primary, unknown.backup),
            (RolloutStep::Apply, RolloutStep::Wait)
        );
    }

    #[test]
    fn a_new_pair_gets_both_deployments_at_once() {
        let new = Sides {
            primary: template("new", None),
            backup: template("new", None),
        };
        let steps = next(&new, &Snapshot::default(), Side::Primary);
        assert_eq!((steps.primary, steps.backup), (RolloutStep::Apply, RolloutStep::Apply));
    }

    #[test]
    fn a_side_that_lacks_a_secret_keeps_its_pod() {
        let mut templates = rolling();
        templates.backup.held_back = true;
        let steps = next(&templates, &settled(Side::Primary, "old", Health::Up), Side::Primary);
        assert_eq!(
            (steps.primary, steps.backup),
            (RolloutStep::Wait, RolloutStep::HoldBack)
        );
    }

    #[test]
    fn a_postponed_side_keeps_its_pod_and_a_new_one_is_made_all_the_same() {
        let mut templates = rolling();
        templates.backup.postponed = true;
        let steps = next(&templates, &settled(Side::Primary, "old", Health::Up), Side::Primary);
        assert_eq!(
            (steps.primary, steps.backup),
            (RolloutStep::Wait, RolloutStep::Postpone)
        );
        templates.backup.found = None;
        let steps = next(&templates, &settled(Side::Primary, "old", Health::Up), Side::Primary);
        assert_eq!(steps.backup, RolloutStep::Apply);
    }
}
