//! A scripted Kubernetes API server in memory, behind a tower service that gives a [`kube::Client`].
//!
//! It holds objects of any kind, keeps `resourceVersion`, `uid` and `generation` as a real server does, answers reads, writes and
//! watches, and does on request what a real server does rarely: answers late, refuses, or loses an answer. Nothing here takes wall
//! time: delays are tokio's, so they work under paused time.
//!
//! ```
//! use fake_api_server::{ApiServer, Fault, Match, Verb};
//! use k8s_openapi::api::core::v1::Service;
//! use kube::{Api, api::{Patch, PatchParams}};
//! use serde_json::json;
//!
//! # async fn example(service: Service) {
//! let server = ApiServer::new();
//! server.put(&service);
//! // The next patch of a Service takes effect, and its answer is lost.
//! server.fault(Match::new(Verb::Patch, "services"), Fault::DisconnectAfter);
//! let services: Api<Service> = Api::namespaced(server.client(), "netcool");
//! let patch = Patch::Merge(json!({"spec": {"selector": {"side": "b"}}}));
//! assert!(services.patch("pair", &PatchParams::default(), &patch).await.is_err());
//! assert_eq!(server.json::<Service>("netcool", "pair").unwrap()["spec"]["selector"]["side"], "b");
//! assert_eq!(server.count(&Match::new(Verb::Patch, "services")), 1);
//! # }
//! ```
//!
//! Limits: no admission, no defaults, no schema and no garbage collection; lists are atomic for server-side apply; and
//! a watch does not end by itself. A pod that is deleted with a grace period stays, with its
//! `deletionTimestamp`, until the test takes it away as kubelet would, with [`ApiServer::delete`].

mod fault;
mod key;
mod patch;
mod request;
mod selection;
mod server;
mod service;
mod store;
#[cfg(test)]
mod tests;
mod watch;

pub use fault::{Fault, Match, Release};
pub use request::{PatchKind, Request, Verb};
pub use server::ApiServer;
pub use service::ConnectionError;
