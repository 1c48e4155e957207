//! The API server: one Lease, with optimistic concurrency.

use k8s_openapi::api::coordination::v1::Lease;
use proxypair::leader::election::{Answer, Request};

use super::state::{Keyed, Outcome, Server};

impl Server {
    /// As a real API server does.
    pub fn carry_out(&mut self, request: &Request) -> Outcome {
        let mut new = match (request, &self.lease) {
            (Request::Read | Request::Replace(_), None) => return Outcome::Missing,
            (Request::Read, Some(lease)) => return Outcome::Lease(lease.clone()),
            (Request::Create(_), Some(_)) => return Outcome::Conflict,
            (Request::Create(lease), None) => {
                let mut lease = Lease::clone(lease);
                lease.metadata.uid = Some(format!("lease-{}", self.version));
                lease
            }
            (Request::Replace(lease), Some(found)) => {
                let is_same = lease.metadata.resource_version == found.metadata.resource_version;
                if !is_same || lease.metadata.uid != found.metadata.uid {
                    return Outcome::Conflict;
                }
                Lease::clone(lease)
            }
        };
        self.version += 1;
        new.metadata.resource_version = Some(self.version.to_string());
        let stored = Keyed::new(new);
        self.lease = Some(stored.clone());
        Outcome::Lease(stored)
    }
}

impl Outcome {
    /// As the election takes it.
    pub fn answer(&self) -> Answer {
        match self {
            Self::Lease(lease) => Answer::Lease(Box::new(Lease::clone(lease))),
            Self::Missing => Answer::Missing,
            Self::Conflict => Answer::Conflict,
        }
    }
}
