//! How the gate connects to its ObjectServer, for each kind of connection.
//!
//! | connection | without a proxy server | with one |
//! |---|---|---|
//! | the watch over the ObjectServer | TLS if there is a CA | the same |
//! | a check session | TLS if there is a CA | to the proxy server, plain |
//! | a probe's session | TLS if there is a CA, plain if its own TLS passes through | to the proxy server, plain |

use std::time::Duration;

use tokio::sync::watch;

use super::{
    args::GateArgs,
    files::{self, Current},
    framing::Accepts,
};
use crate::{
    dial::{DialError, Dialer},
    tls::{HandshakeError, ObjectServerTls},
};

/// Where connections go, and which protocol they use.
#[derive(Debug)]
pub struct Route {
    object_server: Dialer,
    /// The CA bundle in use; none if the ObjectServer speaks plain TDS.
    tls: Option<watch::Sender<Current<ObjectServerTls>>>,
    proxy: Option<Dialer>,
    is_pass_through: bool,
}

impl Route {
    /// The route that the command line describes.
    #[must_use]
    pub fn new(args: &GateArgs) -> Self {
        Self {
            object_server: Dialer::new(args.object_server.clone(), args.unresponsive_after),
            tls: args
                .object_server_ca
                .as_ref()
                .map(|_| watch::Sender::new(files::unread())),
            proxy: args
                .proxy
                .clone()
                .map(|address| Dialer::new(address, args.unresponsive_after)),
            is_pass_through: args.pass_through,
        }
    }

    /// The channel with the CA bundle in use.
    #[must_use]
    pub const fn ca_bundle(&self) -> Option<&watch::Sender<Current<ObjectServerTls>>> {
        self.tls.as_ref()
    }

    /// Time without an answer after which a server counts as unreachable.
    #[must_use]
    pub const fn unresponsive_after(&self) -> Duration {
        self.object_server.unresponsive_after()
    }

    /// The protocols that probes may speak; if the gate ends their TLS, inside it.
    #[must_use]
    pub const fn accepts(&self) -> Accepts {
        match (self.is_pass_through, &self.tls, &self.proxy) {
            (false, ..) => Accepts::Tds,
            (true, Some(_), None) => Accepts::Tls,
            (true, ..) => Accepts::Either,
        }
    }

    /// Directly to the ObjectServer.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::NoBundle`] until a CA bundle was read.
    pub fn object_server(&self) -> Result<Dialer, DialError> {
        let dialer = self.object_server.clone();
        let Some(tls) = &self.tls else {
            return Ok(dialer);
        };
        match &*tls.borrow() {
            Ok(tls) => Ok(dialer.with_tls(tls.clone())),
            Err(why) => Err(DialError::Tls {
                address: self.object_server.address().clone(),
                source: HandshakeError::NoBundle(why.clone()),
            }),
        }
    }

    /// To the proxy server, if there is one.
    #[must_use]
    pub const fn proxy(&self) -> Option<&Dialer> {
        self.proxy.as_ref()
    }

    /// For a check session.
    ///
    /// # Errors
    ///
    /// As [`Self::object_server`].
    pub fn for_check(&self) -> Result<Dialer, DialError> {
        self.proxy.clone().map_or_else(|| self.object_server(), Ok)
    }

    /// For a probe's session.
    ///
    /// # Errors
    ///
    /// As [`Self::object_server`].
    pub fn for_session(&self) -> Result<Dialer, DialError> {
        match &self.proxy {
            None if self.is_pass_through => Ok(self.object_server.clone()),
            _ => self.for_check(),
        }
    }
}
