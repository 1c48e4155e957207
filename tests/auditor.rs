//! The unit tests inside the auditor of the end-to-end tests, which themselves need a cluster.

#![allow(dead_code, reason = "the end-to-end tests use the rest")]

#[path = "support/auditor/timeline.rs"]
mod timeline;
