//! The text of two files that OMNIbus programs read: `omni.dat`, which has the addresses of servers, and properties
//! files.
//!
//! How OMNIbus reads a quotation mark, a backslash or a control character inside a quoted value is not documented, so
//! such values are rejected instead of escaped: a password that a proxy reads wrongly locks an account. A `#` begins a
//! comment only at the beginning of a line, so it is allowed inside a value. A password that cannot be written can be
//! encrypted with nco_aes_crypt, whose output can.

mod omni_dat;
mod props;

pub use omni_dat::{OmniDatEntry, OmniDatServer, omni_dat};
pub use props::{PropertyValue, ProxyCredentials, Proxyserv, property, proxyserv_props};

use crate::api::rules;

/// A text cannot be written into a file of OMNIbus. The error never contains a property's value, which may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// The value of a property.
    #[error(
        "{key} has {character}, which cannot be written safely into a properties file: use a value without it, or \
         encrypt it with nco_aes_crypt"
    )]
    Property {
        /// Name of the property.
        key: String,
        /// The character in words, such as "a backslash".
        character: &'static str,
    },
    /// The name of a server.
    #[error("{0:?} is not a server name: {rule}", rule = rules::server_name().message)]
    Name(String),
    /// A host.
    #[error("{0:?} is not a host name or IP address")]
    Host(String),
}

#[cfg(test)]
mod tests;
