//! The kernel's table of connections, through netlink: it is dumped, one entry is looked up, and one entry is deleted.
//!
//! Nothing is ever deleted by a filter. Kernels before 5.8 ignore the filter of such a request and delete everything, and no kernel compares
//! IPv6 addresses in it as one expects. A table is dumped whole, what to delete is decided here, and each entry is deleted by itself, by its
//! original tuple and its identity. The kernel compares both. The identity follows from the place of the entry in the kernel's memory: a connection
//! that takes the tuple of one that ended since the dump, which is milliseconds ago, is hit only if it also took its place.

mod message;

use std::{io, net::SocketAddr, time::Duration};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use socket2::SockRef;

#[cfg(test)]
pub(in crate::agent) use message::entry;
pub use message::{Entry, Flow};
use message::{Frame, frames, original_tuple};

/// The kernel answers at once. What takes longer is given up, so that a lost answer holds up nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The kernel sends at most 32 KiB of a dump at a time.
const BUFFER: usize = 64 * 1024;

/// Why the table could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// There is no socket to the kernel's netfilter.
    #[error("failed to open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel did not take a request, or did not answer it.
    #[error("failed to talk to the kernel through netlink: {0}")]
    Talk(#[source] io::Error),
    /// The process lacks a capability.
    #[error("the kernel does not permit this process to use its connection table: it needs the capability NET_ADMIN")]
    NotPermitted,
    /// The kernel answered with an error.
    #[error("the kernel refused to {what}: {source}")]
    Refused {
        /// What it was asked to do.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// What the kernel sent is no netlink message.
    #[error("the kernel sent what is no netlink message: {0}")]
    Malformed(String),
}

/// One of the kernel's two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Where connections to an address are.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }

    fn proto(self) -> NetfilterProtoFamily {
        match self {
            Self::V4 => NetfilterProtoFamily::IPv4,
            Self::V6 => NetfilterProtoFamily::IPv6,
        }
    }
}

/// A socket to the connection table of the network namespace that this thread was in when it was opened. Its calls block, for at most 5 s each
/// time that they wait for the kernel.
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conntrack {
    /// Opens the socket. That takes no capability; its use does.
    ///
    /// # Errors
    ///
    /// [`ConntrackError::Open`].
    pub fn open() -> Result<Self, ConntrackError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&NetlinkAddress::new(0, 0))?;
            SockRef::from(&socket).set_read_timeout(Some(ANSWER_WITHIN))?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(ConntrackError::Open)?,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// Reads the whole table of a family. `each` gets the TCP connections in it. Returns how many entries could not be decoded.
    ///
    /// The table changes while it is read: an entry may be missing, or come twice.
    ///
    /// # Errors
    ///
    /// [`ConntrackError`]; `each` may have got some of the entries by then.
    pub fn dump(&mut self, family: Family, mut each: impl FnMut(Entry)) -> Result<usize, ConntrackError> {
        self.send(family, NLM_F_DUMP, ConntrackMessage::Get(Vec::new()))?;
        let mut undecodable = 0;
        self.answers("dump its connection table", |frame| {
            match frame {
                Frame::Entry(entry) => each(*entry),
                Frame::Undecodable => undecodable += 1,
                Frame::Other => {}
                Frame::End => return true,
            }
            false
        })?;
        Ok(undecodable)
    }

    /// Looks up the TCP connection whose first packet went from `source` to `destination`.
    ///
    /// # Errors
    ///
    /// [`ConntrackError`]; that there is none is not an error.
    pub fn find(&mut self, source: SocketAddr, destination: SocketAddr) -> Result<Option<Entry>, ConntrackError> {
        let tuple = ConntrackAttribute::CtaTupleOrig(original_tuple(source, destination));
        self.send(Family::of(destination), NLM_F_ACK, ConntrackMessage::Get(vec![tuple]))?;
        let mut found = None;
        let outcome = self.answers("look up a connection", |frame| match frame {
            Frame::Entry(entry) => {
                found = Some(*entry);
                false
            }
            Frame::Undecodable | Frame::Other => false,
            Frame::End => true,
        });
        match outcome {
            Err(error) if error.is_absence() => Ok(None),
            outcome => outcome.map(|()| found),
        }
    }

    /// Deletes one entry. Returns whether it was still there.
    ///
    /// # Errors
    ///
    /// [`ConntrackError`].
    pub fn delete(&mut self, entry: &Entry) -> Result<bool, ConntrackError> {
        let family = Family::of(entry.original.destination);
        self.send(family, NLM_F_ACK, ConntrackMessage::Delete(entry.key()))?;
        match self.answers("delete a connection", |frame| matches!(frame, Frame::End)) {
            Err(error) if error.is_absence() => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    fn send(&mut self, family: Family, flags: u16, request: ConntrackMessage) -> Result<(), ConntrackError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let request = NetfilterMessage::new(NetfilterHeader::new(family.proto(), 0, 0), request);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(ConntrackError::Talk)?;
        Ok(())
    }

    /// Hands the answers to the last request to `each`, until that says that it was the last one.
    fn answers(&mut self, what: &'static str, mut each: impl FnMut(Frame) -> bool) -> Result<(), ConntrackError> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ConntrackError::Talk(error)),
            }
            for frame in frames(&self.buffer, self.sequence) {
                let frame = frame.map_err(|error| match error {
                    message::FrameError::Malformed(text) => ConntrackError::Malformed(text),
                    message::FrameError::Kernel(source) if source.raw_os_error() == Some(Errno::EPERM as i32) => {
                        ConntrackError::NotPermitted
                    }
                    message::FrameError::Kernel(source) => ConntrackError::Refused { what, source },
                })?;
                if each(frame) {
                    return Ok(());
                }
            }
        }
    }
}

impl ConntrackError {
    /// Whether it says that there is no such entry.
    fn is_absence(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(Errno::ENOENT as i32))
    }
}

#[cfg(test)]
mod tests;
