//! The two files that OMNIbus programs read, as text: `omni.dat`, which says where servers are, and properties files.
//!
//! What OMNIbus makes of a quotation mark, a backslash or a control character inside a quoted value is not documented, so such values are
//! refused rather than escaped: a password that a proxy reads wrongly locks an account. A `#` begins a comment at the beginning of a line
//! only, so inside a value it stays as it is. Passwords that cannot be written can be encrypted with nco_aes_crypt; what that prints can be.

mod omni_dat;
mod props;

pub use omni_dat::{Entry, Server, omni_dat};
pub use props::{Credentials, Proxyserv, Value, property, proxyserv_props};

/// A text that cannot be written into a file of OMNIbus. It never tells the text itself, which may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// The value of a property.
    #[error(
        "{key} has {character}, which a properties file cannot hold safely: use a value without it, or encrypt it with nco_aes_crypt"
    )]
    Property {
        /// The property.
        key: String,
        /// What it has.
        character: &'static str,
    },
    /// The name of a server.
    #[error(
        "{0:?} is no server name: at most 29 upper-case letters, digits and underscores, not beginning with a digit"
    )]
    Name(String),
    /// A host.
    #[error("{0:?} is no host name or IP address")]
    Host(String),
}

#[cfg(test)]
mod tests;
