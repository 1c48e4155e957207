//! What the auditor of the end-to-end tests finds right and wrong. Those tests themselves need a cluster; this does not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use testkit::auditor::timeline::{Change, Kind, Object, SIDE, judge};

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("pair".to_owned(), "v".to_owned())])
}

fn change(revision: u64, kind: Kind, name: &str, object: Option<Object>) -> Change {
    Change {
        revision,
        seen: Timestamp::UNIX_EPOCH,
        kind,
        name: name.to_owned(),
        object,
    }
}

fn service(revision: u64, sides: &[&str]) -> Change {
    let mut selector = labels();
    selector.extend(sides.iter().map(|side| (SIDE.to_owned(), (*side).to_owned())));
    change(revision, Kind::Service, "v", Some(Object::Service(selector)))
}

fn slice(revision: u64, name: &str, pods: &[&str]) -> Change {
    let pods = pods.iter().map(|pod| (*pod).to_owned()).collect();
    change(revision, Kind::Slice, name, Some(Object::Slice(pods)))
}

fn pod(revision: u64, name: &str, side: &str) -> Change {
    change(
        revision,
        Kind::Pod,
        name,
        Some(Object::Pod {
            side: side.to_owned(),
            finished: false,
        }),
    )
}

fn serving() -> Vec<Change> {
    vec![
        pod(1, "p", "primary"),
        pod(2, "b", "backup"),
        service(3, &["primary"]),
        slice(4, "s", &["p"]),
    ]
}

fn violations(mut more: Vec<Change>) -> Vec<u64> {
    let mut journal = serving();
    journal.append(&mut more);
    judge(journal, &labels())
        .violations
        .iter()
        .map(|violation| violation.revision)
        .collect()
}

#[test]
fn a_switch_in_one_update_is_right() {
    assert_eq!(violations(vec![service(5, &["backup"]), slice(6, "s", &["b"])]), [0; 0]);
}

#[test]
fn the_order_is_that_of_the_revisions_and_not_of_arrival() {
    assert_eq!(
        violations(vec![
            slice(6, "s", &["b"]),
            service(5, &["backup"]),
            slice(5, "s", &["p"])
        ]),
        [0; 0]
    );
}

#[test]
fn a_selector_without_a_side_is_wrong() {
    assert_eq!(violations(vec![service(5, &[])]), [5]);
}

#[test]
fn a_selector_without_the_pair_is_wrong() {
    let selector = BTreeMap::from([(SIDE.to_owned(), "primary".to_owned())]);
    assert_eq!(
        violations(vec![change(5, Kind::Service, "v", Some(Object::Service(selector)))]),
        [5]
    );
}

#[test]
fn a_service_that_goes_is_wrong() {
    assert_eq!(violations(vec![change(5, Kind::Service, "v", None)]), [5]);
}

#[test]
fn both_sides_at_once_are_wrong_even_in_two_slices() {
    assert_eq!(violations(vec![slice(5, "s", &["p", "b"])]), [5]);
    assert_eq!(violations(vec![slice(5, "t", &["b"]), slice(6, "s", &[])]), [5]);
}

#[test]
fn an_instant_without_an_endpoint_is_wrong() {
    assert_eq!(violations(vec![slice(5, "s", &[]), slice(6, "s", &["b"])]), [5]);
}

#[test]
fn an_endpoint_may_go_with_its_pod() {
    assert_eq!(
        violations(vec![change(5, Kind::Pod, "p", None), slice(6, "s", &[])]),
        [0; 0]
    );
    let finished = Object::Pod {
        side: "primary".to_owned(),
        finished: true,
    };
    assert_eq!(
        violations(vec![change(5, Kind::Pod, "p", Some(finished)), slice(6, "s", &[])]),
        [0; 0]
    );
}
