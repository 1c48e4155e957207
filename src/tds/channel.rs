//! Messages over a byte stream: the one place where TDS meets I/O. Client and server use it alike.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Error;
use super::packet::{Assembler, DEFAULT_PACKET_SIZE, HEADER_LEN, Message, PacketType, write_message};

/// Most bytes that one read takes, and so the most that wait unread.
const READ_LEN: usize = 8 * 1024;

/// Why no message could be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// What arrived is not a message.
    #[error("broken message")]
    Protocol(#[from] Error),
}

/// A stream that carries messages.
#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    assembler: Assembler,
    unread: Vec<u8>,
    received: u64,
    packet_size: u16,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    /// A channel that refuses messages above `limit` bytes and sends packets of [`DEFAULT_PACKET_SIZE`].
    pub const fn new(stream: S, limit: usize) -> Self {
        Self {
            stream,
            assembler: Assembler::new(limit),
            unread: Vec::new(),
            received: 0,
            packet_size: DEFAULT_PACKET_SIZE,
        }
    }

    /// The stream below.
    pub const fn stream(&self) -> &S {
        &self.stream
    }

    /// Refuses messages above `limit` bytes from now on.
    pub const fn set_limit(&mut self, limit: usize) {
        self.assembler.set_limit(limit);
    }

    /// Bytes received so far, headers of packets included.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Sends packets of up to `packet_size` bytes from now on. Packets of any size are received.
    pub const fn set_packet_size(&mut self, packet_size: u16) {
        self.packet_size = packet_size;
    }

    /// Sends one message.
    ///
    /// # Errors
    ///
    /// The stream's error.
    pub async fn send(&mut self, kind: PacketType, payload: &[u8]) -> io::Result<()> {
        let mut packets = Vec::with_capacity(payload.len() + HEADER_LEN);
        write_message(kind, payload, self.packet_size, &mut packets);
        self.stream.write_all(&packets).await?;
        self.stream.flush().await
    }

    /// Waits for the first byte of the next message and leaves it there: the type distinguishes TDS from other protocols before a whole message
    /// has arrived. `None` when the peer closed. Safe to cancel.
    ///
    /// # Errors
    ///
    /// The stream's error.
    pub async fn peek(&mut self) -> io::Result<Option<PacketType>> {
        if self.unread.is_empty() {
            self.read_more().await?;
        }
        Ok(self.unread.first().copied().map(PacketType))
    }

    /// Waits for the next message; `None` when the peer closed between two. Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Io`], also when the peer closed within a message; [`ReceiveError::Protocol`].
    pub async fn receive(&mut self) -> Result<Option<Message>, ReceiveError> {
        loop {
            let mut input = self.unread.as_slice();
            let message = self.assembler.feed(&mut input)?;
            let consumed = self.unread.len() - input.len();
            self.unread.drain(..consumed);
            if message.is_some() {
                return Ok(message);
            }
            if self.read_more().await? == 0 {
                return if self.assembler.is_between_messages() {
                    Ok(None)
                } else {
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
                };
            }
        }
    }

    /// Reads once and throws away the messages that are complete by then. `false` when the peer closed. Safe to cancel.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    pub async fn discard(&mut self) -> Result<bool, ReceiveError> {
        let is_open = self.read_more().await? > 0;
        let mut input = self.unread.as_slice();
        while self.assembler.feed(&mut input)?.is_some() {}
        self.unread.clear();
        Ok(is_open)
    }

    /// Ends the sending side of the stream.
    ///
    /// # Errors
    ///
    /// The stream's error.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        self.unread.reserve(READ_LEN);
        let read = (&mut self.stream)
            .take(READ_LEN as u64)
            .read_buf(&mut self.unread)
            .await?;
        self.received += read as u64;
        Ok(read)
    }
}
