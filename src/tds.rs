//! TDS 5.0, the protocol that OMNIbus probes, proxies and ObjectServers speak: a codec without I/O, and on it a small client.
//!
//! | module | owns |
//! |---|---|
//! | [`packet`] | the 8-byte packet header, cutting messages into packets and putting them together again |
//! | [`wire`] | reading and writing integers and counted text in the byte order that the client chose |
//! | [`login`] | the login record |
//! | [`encryption`] | passwords that are encrypted for the server, the client's half |
//! | [`capability`] | the bit masks in which both ends declare what they support |
//! | [`token`] | the first bytes of tokens |
//! | [`value`] | column types and the values in rows |
//! | [`format`](mod@format) | the columns of rows and parameters |
//! | [`request`] | requests of a client |
//! | [`response`] | answers of a server |
//! | [`channel`] | messages over a byte stream |
//! | [`client`] | a session over any byte stream |
//! | [`server`] | what only the stand-ins and tests need: the server's half |
//!
//! The facts come from public sources: the protocol notes and the sources of FreeTDS, SAP's go-dblib and jTDS, and sessions of FreeTDS's
//! `tsql` and of jConnect captured on loopback. No licensed ObjectServer was available; where the sources differ, decoding accepts
//! both forms. The golden vectors in the tests are taken from the captures, so they were produced by programs that do not share this code.
//!
//! Two rules are easy to get wrong. The packet header is always big-endian, while everything inside a message is in the byte order that the
//! client announced in its login record. And a message may be cut anywhere: tokens straddle packets.
//!
//! Decoding is strict. It never panics, refuses a length that points outside its container, and allocates in proportion to bytes that have
//! arrived, never to a length that was only announced.

pub mod capability;
pub mod channel;
pub mod client;
pub mod encryption;
pub mod format;
pub mod login;
pub mod packet;
pub mod request;
pub mod response;
pub mod server;
pub mod token;
pub mod value;
pub mod wire;

mod error;

pub use error::Error;
