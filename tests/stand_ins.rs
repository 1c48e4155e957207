//! The unit tests inside the stand-ins: cargo either builds an example or tests it, and the other tests need it built.

#![allow(dead_code, reason = "the stand-ins use the rest")]

#[path = "../examples/probe/clock.rs"]
mod clock;
#[path = "../examples/probe/counters.rs"]
mod counters;
#[path = "../examples/probe/gaps.rs"]
mod gaps;
#[path = "../examples/proxyserv/interfaces.rs"]
mod interfaces;
#[path = "../examples/probe/omni_dat.rs"]
mod omni_dat;
#[path = "../examples/proxyserv/properties.rs"]
mod properties;
#[path = "../examples/probe/record.rs"]
mod record;
#[path = "../examples/objectserver/sql.rs"]
mod sql;
