//! The custom resource `ProxyPair`: its types, defaults, CEL rules, and every string of the API that other parts
//! repeat.

mod definition;
mod duration;
mod names;
mod properties;
mod proxy;
mod reason;
pub mod rules;
mod side;
mod spec;
mod status;

pub use definition::definition;
pub use duration::{Duration, ParseDurationError};
pub use names::*;
pub use properties::*;
pub use proxy::*;
pub use reason::Reason;
pub use side::*;
pub use spec::*;
pub use status::*;

#[cfg(test)]
mod tests;
