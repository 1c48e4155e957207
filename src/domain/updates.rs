//! Which pairs get a new image of the gates now. It comes with a new operator and is the same for all pairs, so a few pairs have it first, and
//! the others wait until it works for those. An image that cannot be pulled, or does not work, costs at most that many pairs their idle side.
//!
//! A pair *is updating* from when one of its sides gets the image until the proxy there works. A pair whose side does not come back goes on
//! updating, and keeps its place. A side that is down because of its proxy before it gets the image needs no place: the image cannot break it,
//! and a pair that never worked holds nobody up. The places are not stored: a pair of which one side alone has the image when a leader looks at
//! it for the first time counts as updating until that side works.

use std::collections::{BTreeMap, BTreeSet};

use super::rollout::Snapshot;
use crate::api::{Health, Side, Sides};

/// The pairs that are updating, and those that wait. `K` is the key of a pair.
#[derive(Debug)]
pub struct Updates<K> {
    limit: usize,
    /// With the templates that their sides got.
    updating: BTreeMap<K, Sides<Option<String>>>,
    waiting: BTreeSet<K>,
    /// The pairs that were looked at since this process leads.
    seen: BTreeSet<K>,
    /// Those of them whose images are known.
    known: BTreeSet<K>,
}

/// What is declared and found of the gate's image on one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideImage {
    /// The image that is declared.
    pub wanted: Option<String>,
    /// The image in the Deployment that exists; `None` without one.
    pub found: Option<String>,
    /// The pod template in that Deployment.
    pub template: Option<String>,
}

impl SideImage {
    /// It is to get the new one.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.found.is_some() && self.found != self.wanted
    }

    fn is_new(&self) -> bool {
        self.found.is_some() && self.found == self.wanted
    }
}

impl<K: Ord + Clone> Updates<K> {
    /// `limit` is how many pairs may be updating at the same time, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            updating: BTreeMap::new(),
            waiting: BTreeSet::new(),
            seen: BTreeSet::new(),
            known: BTreeSet::new(),
        }
    }

    /// Takes in what is found of a pair. Whether its sides may get the new image now; `everybody` are all pairs that exist.
    ///
    /// Nothing begins before every pair was looked at: those that were updating under the former leader keep their places.
    pub fn may_update(
        &mut self,
        pair: &K,
        images: &Sides<SideImage>,
        snapshot: &Snapshot,
        everybody: impl IntoIterator<Item = K>,
    ) -> bool {
        let given = images
            .each_ref()
            .map(|image| image.template.clone().filter(|_| image.is_new()));
        let is_first_look = self.known.insert(pair.clone());
        if is_first_look && images.iter().any(|(_, image)| image.is_old()) && !all_work(&given, snapshot) {
            self.updating.entry(pair.clone()).or_insert(given);
        }
        if !images.iter().any(|(_, image)| image.is_old()) {
            self.waiting.remove(pair);
            return true;
        }
        let may = self.updating.contains_key(pair)
            || (self.updating.len() < self.limit
                && everybody
                    .into_iter()
                    .all(|other| other == *pair || self.seen.contains(&other)));
        match may {
            true => self.waiting.remove(pair),
            false => self.waiting.insert(pair.clone()),
        };
        may
    }

    /// A pair was looked at, even if nothing could be found of it. Returns the pairs that wait, when it was the last one.
    pub fn see(&mut self, pair: &K, everybody: impl IntoIterator<Item = K>) -> Vec<K> {
        match self.seen.insert(pair.clone()) && everybody.into_iter().all(|pair| self.seen.contains(&pair)) {
            true => self.waiting(),
            false => Vec::new(),
        }
    }

    /// A side of a pair gets the new image, with this pod template.
    pub fn begin(&mut self, pair: &K, side: Side, template: Option<String>) {
        self.updating.entry(pair.clone()).or_default()[side] = template;
    }

    /// Gives the place of a pair away if all that was given to it works. Returns the pairs that wait, when one of them may go on.
    pub fn review(&mut self, pair: &K, snapshot: &Snapshot) -> Vec<K> {
        match self.updating.get(pair) {
            Some(given) if all_work(given, snapshot) => {
                self.updating.remove(pair);
                self.waiting()
            }
            _ => Vec::new(),
        }
    }

    /// A pair is gone. Returns the pairs that wait.
    pub fn forget(&mut self, pair: &K) -> Vec<K> {
        self.updating.remove(pair);
        self.waiting.remove(pair);
        self.seen.remove(pair);
        self.known.remove(pair);
        self.waiting()
    }

    /// The pairs that wait.
    #[must_use]
    pub fn waiting(&self) -> Vec<K> {
        self.waiting.iter().cloned().collect()
    }

    /// The pairs that are updating.
    pub fn updating(&self) -> impl ExactSizeIterator<Item = &K> {
        self.updating.keys()
    }
}

/// Whether a side is known to be down because of its proxy: a new image cannot make that worse.
#[must_use]
pub fn is_broken(snapshot: &Snapshot, side: Side) -> bool {
    snapshot.health[side] == Some(Health::Down) && !snapshot.proxy_works[side]
}

/// Whether the proxies run and work that have one of these pod templates.
fn all_work(given: &Sides<Option<String>>, snapshot: &Snapshot) -> bool {
    given.iter().all(|(side, template)| {
        template.is_none() || (snapshot.template[side] == *template && snapshot.proxy_works[side])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [u32; 5] = [1, 2, 3, 4, 5];

    fn image(found: &str) -> SideImage {
        SideImage {
            wanted: Some("new".to_owned()),
            found: Some(found.to_owned()),
            template: Some(format!("template of {found}")),
        }
    }

    fn images(primary: &str, backup: &str) -> Sides<SideImage> {
        Sides {
            primary: image(primary),
            backup: image(backup),
        }
    }

    fn template() -> Option<String> {
        Some("template of new".to_owned())
    }

    /// The backup of a pair runs with the new template.
    fn runs(proxy_works: bool) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.template.backup = template();
        snapshot.proxy_works.backup = proxy_works;
        snapshot
    }

    fn fleet(limit: usize) -> Updates<u32> {
        let mut updates = Updates::new(limit);
        // Before all were looked at nothing begins.
        for pair in &ALL[..4] {
            assert!(!updates.may_update(pair, &images("old", "old"), &Snapshot::default(), ALL));
            assert_eq!(updates.see(pair, ALL), [0; 0]);
        }
        assert_eq!(updates.see(&5, ALL), [1, 2, 3, 4]);
        assert_eq!(updates.see(&5, ALL), [0; 0]);
        updates
    }

    #[test]
    fn a_few_pairs_begin_and_the_next_follows_when_one_works() {
        let mut updates = fleet(2);
        for (pair, may) in [(5, true), (1, true), (2, false), (3, false), (5, true)] {
            assert_eq!(
                updates.may_update(&pair, &images("old", "old"), &Snapshot::default(), ALL),
                may,
                "{pair}"
            );
            if may {
                updates.begin(&pair, Side::Backup, template());
            }
        }
        assert_eq!(
            updates.review(&5, &Snapshot::default()),
            [0; 0],
            "its pod is still the old one"
        );
        assert_eq!(updates.review(&5, &runs(false)), [0; 0], "its pod does not work");
        assert_eq!(updates.review(&5, &runs(true)), [2, 3, 4]);
        assert!(updates.may_update(&3, &images("old", "old"), &Snapshot::default(), ALL));
    }

    #[test]
    fn an_image_that_does_not_work_stops_after_the_limit_also_under_the_next_leader() {
        let mut updates = fleet(3);
        let mut begun = Vec::new();
        for pair in ALL.into_iter().chain(ALL) {
            if updates.may_update(&pair, &images("old", "old"), &Snapshot::default(), ALL) && !begun.contains(&pair) {
                updates.begin(&pair, Side::Backup, template());
                begun.push(pair);
            }
            assert_eq!(updates.review(&pair, &runs(false)), [0; 0]);
        }
        assert_eq!(begun.len(), 3);
        // The next leader meets those that have not begun first.
        let mut successor = Updates::new(3);
        let (half_done, rest): (Vec<_>, Vec<_>) = ALL.into_iter().partition(|pair| begun.contains(pair));
        for pair in rest.iter().chain(&half_done).chain(&rest) {
            let found = if begun.contains(pair) {
                images("old", "new")
            } else {
                images("old", "old")
            };
            assert_eq!(
                successor.may_update(pair, &found, &Snapshot::default(), ALL),
                begun.contains(pair),
                "{pair}"
            );
            successor.see(pair, ALL);
        }
        assert_eq!(successor.updating().len(), 3);
    }

    #[test]
    fn a_pair_that_is_as_it_should_be_or_new_needs_no_place() {
        let mut updates = fleet(1);
        assert!(updates.may_update(&5, &images("new", "new"), &Snapshot::default(), ALL));
        assert!(updates.may_update(&5, &Sides::default(), &Snapshot::default(), ALL));
        assert_eq!(updates.updating().len(), 0);
    }

    #[test]
    fn a_pair_whose_idle_side_works_needs_a_place_again_for_the_other_side() {
        let mut updates = fleet(1);
        assert!(updates.may_update(&5, &images("old", "old"), &Snapshot::default(), ALL));
        updates.begin(&5, Side::Backup, template());
        updates.review(&5, &runs(true));
        assert!(updates.may_update(&5, &images("old", "new"), &runs(true), ALL));
        assert_eq!(updates.updating().len(), 0, "it has not begun");
        assert!(updates.may_update(&1, &images("old", "old"), &Snapshot::default(), ALL));
        updates.begin(&1, Side::Backup, template());
        assert!(!updates.may_update(&5, &images("old", "new"), &runs(true), ALL));
    }

    #[test]
    fn only_a_side_that_is_known_to_be_down_because_of_its_proxy_is_broken() {
        let mut snapshot = Snapshot::default();
        assert!(!is_broken(&snapshot, Side::Backup), "nothing is known yet");
        for (health, proxy_works, broken) in [
            (Health::Down, false, true),
            (Health::Down, true, false),
            (Health::Up, true, false),
            (Health::Unknown, false, false),
        ] {
            snapshot.health.backup = Some(health);
            snapshot.proxy_works.backup = proxy_works;
            assert_eq!(is_broken(&snapshot, Side::Backup), broken, "{health:?}");
        }
    }

    #[test]
    fn a_side_that_got_the_image_without_a_place_takes_none() {
        let mut updates = fleet(1);
        // Pair 5 never worked: its backup gets the image without `begin`.
        assert!(updates.may_update(&5, &images("old", "old"), &Snapshot::default(), ALL));
        assert!(updates.may_update(&5, &images("old", "new"), &runs(false), ALL));
        assert_eq!(updates.updating().len(), 0);
    }

    #[test]
    fn a_pair_that_is_gone_holds_nobody_up() {
        let mut updates = fleet(1);
        assert!(updates.may_update(&5, &images("old", "old"), &Snapshot::default(), ALL));
        updates.begin(&5, Side::Backup, template());
        assert!(!updates.may_update(&1, &images("old", "old"), &Snapshot::default(), ALL));
        assert_eq!(updates.forget(&5), [1, 2, 3, 4]);
        assert!(updates.may_update(
            &1,
            &images("old", "old"),
            &Snapshot::default(),
            ALL[..4].iter().copied()
        ));
    }
}
