//! The end-to-end tests, on a real Kubernetes. Each file is named after what breaks, and in each probes send all the while, beside an auditor.
//!
//! `make cluster image` first, or `CLUSTER=current IMAGE=… STAND_INS_IMAGE=…` for a cluster of one's own; then
//! `cargo test --test e2e`, with a name to run one.

#[path = "../support"]
mod support {
    pub mod auditor;
    pub mod cluster;
    pub mod evidence;
    pub mod hold;
    pub mod namespace;
    pub mod operator;
    pub mod pair;
    pub mod stage;
    pub mod stand_ins;
    pub mod wait;
}

mod harness;

mod objectserver_killed;

use harness::{Needs, run, test};

fn main() -> std::process::ExitCode {
    use Needs::{AnyCluster, OwnCluster, OwnClusterAlone};
    run(vec![
        test("objectserver_killed", AnyCluster, objectserver_killed::fails_over),
    ])
}
