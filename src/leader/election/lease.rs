//! What is read from a Lease and written into it.

use jiff::{Timestamp, civil::date, tz::Offset};
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::api::ObjectMeta;

use crate::leader::Claim;

/// A Lease that this process holds, and its claim.
#[derive(Clone, Debug)]
pub struct Held {
    pub lease: Box<Lease>,
    pub claim: Claim,
}

impl Held {
    /// In the term of the claim, whatever was read: a Lease from a backup has an earlier one.
    pub fn renewed(&self, wall: Timestamp) -> Box<Lease> {
        renewed(&self.lease, self.claim.term, wall)
    }

    /// The same for a Lease that was deleted: without what the API server fills in.
    pub fn created_again(&self, wall: Timestamp) -> Box<Lease> {
        let ObjectMeta {
            name,
            labels,
            annotations,
            ..
        } = self.lease.metadata.clone();
        let mut again = self.renewed(wall);
        again.metadata = ObjectMeta {
            name,
            labels,
            annotations,
            ..ObjectMeta::default()
        };
        again
    }
}

/// Seconds since 2020-01-01 UTC.
pub fn clock(wall: Timestamp) -> u64 {
    let start = date(2020, 1, 1).at(0, 0, 0, 0);
    let start = Offset::UTC.to_timestamp(start).unwrap_or_default();
    u64::try_from(wall.as_second() - start.as_second()).unwrap_or_default()
}

pub fn transitions(term: u64) -> i32 {
    i32::try_from(term).unwrap_or(i32::MAX)
}

pub fn term_of(lease: &Lease) -> u64 {
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    u64::try_from(transitions.unwrap_or_default()).unwrap_or_default()
}

pub fn holder_of(lease: &Lease) -> Option<String> {
    let holder = lease.spec.as_ref()?.holder_identity.clone();
    holder.filter(|holder| !holder.is_empty())
}

pub fn renewed(lease: &Lease, term: u64, wall: Timestamp) -> Box<Lease> {
    let mut lease = lease.clone();
    let spec = lease.spec.get_or_insert_default();
    spec.renew_time = Some(MicroTime(wall));
    spec.lease_transitions = Some(transitions(term));
    Box::new(lease)
}

pub fn released(lease: &Lease) -> Box<Lease> {
    let mut lease = lease.clone();
    lease.spec.get_or_insert_default().holder_identity = None;
    Box::new(lease)
}
