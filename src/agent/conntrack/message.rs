//! The messages of the kernel's connection table (`nf_conntrack_netlink`, `include/uapi/linux/netfilter/nfnetlink_conntrack.h`), without I/O.
//!
//! `netlink-packet-netfilter` decodes and encodes them. It does not know `CTA_ID` and `CTA_ZONE`, and keeps them as bytes: enough to send them
//! back.

use std::{io, net::SocketAddr};

use netlink_packet_core::{NetlinkBuffer, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, Nla};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};

/// Identity of an entry: differs between two connections with the same tuple.
const CTA_ID: u16 = 12;
/// Zone of an entry: the same tuple may be in several.
const CTA_ZONE: u16 = 18;

/// Length of a netlink header, and what messages are aligned to.
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;

/// One direction of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where its packets come from.
    pub source: SocketAddr,
    /// Where they go.
    pub destination: SocketAddr,
}

/// A TCP connection in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the client, before translation.
    pub original: Flow,
    /// From the server that answers, as its packets arrive here.
    pub reply: Flow,
    /// The original tuple as the kernel sent it, the identity, and the zone if there is one.
    key: Vec<ConntrackAttribute>,
}

impl Entry {
    /// What identifies this entry in a request.
    ///
    /// It is never empty: a request to delete without a tuple would delete the whole table.
    pub(super) fn key(&self) -> Vec<ConntrackAttribute> {
        self.key.clone()
    }

    /// The TCP connection that a message of the kernel describes. `None` if it is not TCP, or if something is missing without which it could
    /// not be deleted by itself.
    fn decoded(attributes: Vec<ConntrackAttribute>) -> Option<Self> {
        let (mut original, mut reply, mut id, mut zone) = (None, None, None, None);
        for attribute in attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(_) => original = Some(attribute),
                ConntrackAttribute::CtaTupleReply(tuple) => reply = Some(tuple),
                ConntrackAttribute::Other(ref other) if other.kind() == CTA_ID => id = Some(attribute),
                ConntrackAttribute::Other(ref other) if other.kind() == CTA_ZONE => zone = Some(attribute),
                _ => {}
            }
        }
        let original = original?;
        let ConntrackAttribute::CtaTupleOrig(tuple) = &original else {
            return None;
        };
        Some(Self {
            original: flow(tuple)?,
            reply: flow(&reply?)?,
            key: [original, id?].into_iter().chain(zone).collect(),
        })
    }
}

/// The flow of a TCP tuple.
fn flow(tuple: &[Tuple]) -> Option<Flow> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(number) => protocol = Some(*number),
                        ProtoTuple::SourcePort(port) => source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if protocol != Some(Protocol::Tcp) {
        return None;
    }
    Some(Flow {
        source: SocketAddr::new(source?, source_port?),
        destination: SocketAddr::new(destination?, destination_port?),
    })
}

/// The tuple of a TCP connection whose first packet went from `source` to `destination`.
pub(super) fn original_tuple(source: SocketAddr, destination: SocketAddr) -> Vec<Tuple> {
    vec![
        Tuple::Ip(vec![
            IPTuple::SourceAddress(source.ip()),
            IPTuple::DestinationAddress(destination.ip()),
        ]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(Protocol::Tcp),
            ProtoTuple::SourcePort(source.port()),
            ProtoTuple::DestinationPort(destination.port()),
        ]),
    ]
}

/// One message of the kernel.
#[derive(Debug)]
pub(super) enum Frame {
    /// A TCP connection.
    Entry(Box<Entry>),
    /// A connection that could not be decoded.
    Undecodable,
    /// Another protocol, or nothing of interest.
    Other,
    /// The last message of the answer.
    End,
}

/// Why there is no message.
#[derive(Debug)]
pub(super) enum FrameError {
    /// The kernel refuses the request.
    Kernel(io::Error),
    /// The bytes are no netlink message.
    Malformed(String),
}

/// The messages in `bytes` that answer request number `sequence`. Those that answer an earlier one are left out.
pub(super) fn frames(bytes: &[u8], sequence: u32) -> impl Iterator<Item = Result<Frame, FrameError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        while rest.len() >= HEADER {
            let header = match NetlinkBuffer::new_checked(rest) {
                Ok(header) => header,
                Err(error) => {
                    rest = &[];
                    return Some(Err(FrameError::Malformed(error.to_string())));
                }
            };
            let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
            let (answers, message) = (header.sequence_number() == sequence, rest.get(..length).unwrap_or(rest));
            rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
            if answers {
                return Some(frame(message));
            }
        }
        None
    })
}

fn frame(message: &[u8]) -> Result<Frame, FrameError> {
    match NetlinkMessage::<Netfilter>::deserialize(message).map(|message| message.payload) {
        Ok(NetlinkPayload::InnerMessage(Netfilter(message))) => Ok(message),
        Ok(NetlinkPayload::Done(done)) if done.code < 0 => Err(FrameError::Kernel(io::Error::from_raw_os_error(
            done.code.saturating_neg(),
        ))),
        Ok(NetlinkPayload::Done(_)) => Ok(Frame::End),
        Ok(NetlinkPayload::Error(error)) if error.code.is_some() => Err(FrameError::Kernel(error.to_io())),
        Ok(NetlinkPayload::Error(_)) => Ok(Frame::End),
        Ok(_) => Ok(Frame::Other),
        Err(error) => Err(FrameError::Malformed(error.to_string())),
    }
}

/// An entry of the table. One that cannot be decoded is no reason to reject what comes after it.
struct Netfilter(Frame);

impl NetlinkDeserializable for Netfilter {
    type Error = std::convert::Infallible;

    fn deserialize(header: &netlink_packet_core::NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self(match NetfilterMessage::deserialize(header, payload) {
            Ok(NetfilterMessage {
                inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                ..
            }) => Entry::decoded(attributes).map_or(Frame::Other, |entry| Frame::Entry(Box::new(entry))),
            Ok(_) => Frame::Other,
            Err(_) => Frame::Undecodable,
        }))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(in crate::agent) use tests::entry;
