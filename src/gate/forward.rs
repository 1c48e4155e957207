//! Forwards bytes between a probe and the ObjectServer, unchanged, and passes each to [`Framing`].
//!
//! Each direction has one buffer of [`BUFFER`] bytes, allocated once. Forwarding a byte needs no lock, no allocation and no timer. The
//! directions do not block each other, and no more is read than the other end has accepted.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    framing::{Framing, FramingError},
    login::Login,
    metrics::{Ending, GateMetrics},
    tracker::Outstanding,
};

/// Size of each of a session's two buffers, in bytes.
pub const BUFFER: usize = 16 * 1024;

/// A probe's connection joined with one to the ObjectServer.
#[derive(Debug)]
pub struct Forwarder<'a, C, U> {
    client: &'a mut C,
    upstream: U,
    to_upstream: Lane,
    to_client: Lane,
    framing: Framing,
    messages: u64,
    /// Since when the client could have sent its next byte.
    client_quiet_since: Instant,
    /// When a byte was last forwarded, in either direction.
    active_at: Instant,
    metrics: &'a GateMetrics,
}

/// What a session's timers depend on. [`Forwarder::advance`] returns when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardState {
    /// The client has completed a message: its login.
    pub has_logged_in: bool,
    /// The server has sent a byte.
    pub has_answer: bool,
    /// The client has begun a message and not ended it.
    pub is_mid_message: bool,
    /// One end has closed its direction.
    pub is_half_closed: bool,
    /// Whether a request is unanswered; [`Outstanding::Request`] also while bytes wait in a buffer, and always outside a drain.
    pub outstanding: Outstanding,
    /// Number of bytes forwarded, while `outstanding` is unsure: shows when the session is quiet. Otherwise 0.
    pub activity: u64,
}

/// Why [`Forwarder::advance`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The forwarding state has changed.
    Changed,
    /// The session is over.
    Ended(Ending),
}

impl<'a, C, U> Forwarder<'a, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Joins the two. `login` is what the client has sent so far.
    pub fn join(client: &'a mut C, upstream: U, login: Login, metrics: &'a GateMetrics) -> Self {
        let Login {
            bytes,
            framing,
            messages,
        } = login;
        metrics.bytes_to_upstream.inc_by(bytes.waiting().len() as u64);
        let now = Instant::now();
        Self {
            client,
            upstream,
            to_upstream: bytes,
            to_client: Lane::default(),
            framing,
            messages: u64::from(messages),
            client_quiet_since: now,
            active_at: now,
            metrics,
        }
    }

    /// Whether the server has sent a byte.
    pub const fn has_answer(&self) -> bool {
        self.to_client.carried > 0
    }

    /// Since when the client could have sent its next byte, and has not.
    pub const fn client_quiet_since(&self) -> Instant {
        self.client_quiet_since
    }

    /// When a byte was last forwarded, in either direction.
    pub const fn active_at(&self) -> Instant {
        self.active_at
    }

    /// Whether bytes of the client wait until the ObjectServer reads them.
    pub fn is_waiting_for_upstream(&self) -> bool {
        !self.to_upstream.is_delivered()
    }

    /// The present forwarding state.
    pub fn traffic(&self, is_draining: bool) -> ForwardState {
        let outstanding = if is_draining && self.to_upstream.is_delivered() && self.to_client.is_delivered() {
            self.framing.outstanding()
        } else {
            Outstanding::Request
        };
        ForwardState {
            has_logged_in: self.messages > 0,
            has_answer: self.has_answer(),
            is_mid_message: self.framing.is_client_mid_message(),
            is_half_closed: self.to_upstream.is_ended || self.to_client.is_ended,
            outstanding,
            activity: if outstanding == Outstanding::Unsure {
                self.to_upstream.carried + self.to_client.carried
            } else {
                0
            },
        }
    }

    /// Forwards until the session ends or its forwarding state differs from `seen`. Cancel safe: no byte is lost when the future is dropped.
    pub async fn advance(&mut self, is_draining: bool, seen: ForwardState) -> Progress {
        std::future::poll_fn(|context| self.poll(context, is_draining, seen)).await
    }

    fn poll(&mut self, context: &mut Context<'_>, is_draining: bool, seen: ForwardState) -> Poll<Progress> {
        let Self {
            client,
            upstream,
            to_upstream,
            to_client,
            framing,
            messages,
            client_quiet_since,
            active_at,
            metrics,
        } = self;
        let carried = (to_upstream.carried, to_client.carried);
        let was_waiting = !to_upstream.is_delivered();

        let answers = to_client.poll(context, upstream, *client, |bytes, is_first| {
            metrics.bytes_to_client.inc_by(bytes.len() as u64);
            framing.upstream(bytes, is_first)
        });
        match answers {
            Poll::Ready(Stop::Malformed) => return Poll::Ready(Progress::Ended(Ending::UpstreamTls)),
            Poll::Ready(Stop::Done | Stop::ReadFailed) => return Poll::Ready(Progress::Ended(Ending::Upstream)),
            Poll::Ready(Stop::WriteFailed) => return Poll::Ready(Progress::Ended(Ending::Client)),
            Poll::Pending => {}
        }

        let requests = to_upstream.poll(context, *client, upstream, |bytes, _| {
            metrics.bytes_to_upstream.inc_by(bytes.len() as u64);
            *messages += u64::from(framing.client(bytes)?);
            Ok(())
        });
        match requests {
            Poll::Ready(Stop::ReadFailed) => return Poll::Ready(Progress::Ended(Ending::Client)),
            Poll::Ready(Stop::WriteFailed) => return Poll::Ready(Progress::Ended(Ending::Upstream)),
            Poll::Ready(Stop::Malformed) => return Poll::Ready(Progress::Ended(Ending::Malformed)),
            // The client has closed its direction; answers may still come.
            Poll::Ready(Stop::Done) | Poll::Pending => {}
        }

        let has_more_of_client = to_upstream.carried != carried.0;
        if has_more_of_client || was_waiting || to_client.carried != carried.1 {
            *active_at = Instant::now();
            if has_more_of_client || was_waiting {
                *client_quiet_since = *active_at;
            }
        }
        if self.traffic(is_draining) == seen {
            Poll::Pending
        } else {
            Poll::Ready(Progress::Changed)
        }
    }
}

/// One direction: a buffer between a reader and a writer.
#[derive(Debug)]
pub struct Lane {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The writer has been flushed since the last write: TLS may buffer.
    is_flushed: bool,
    /// The reader has reached the end of its stream.
    is_ended: bool,
    /// The writer has been shut down.
    is_closed: bool,
    carried: u64,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            is_flushed: true,
            is_ended: false,
            is_closed: false,
            carried: 0,
        }
    }
}

enum Stop {
    Done,
    ReadFailed,
    WriteFailed,
    Malformed,
}

impl Lane {
    /// Bytes read and not yet written.
    #[must_use]
    pub fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Whether everything that was read has reached the writer's kernel.
    fn is_delivered(&self) -> bool {
        self.start == self.end && self.is_flushed
    }

    /// Whether there is no room for more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.end == self.buffer.len()
    }

    /// Reads once, after the waiting bytes. Returns the number of bytes, 0 at the end of the stream or if the buffer is full.
    ///
    /// # Errors
    ///
    /// Those of the reader.
    pub async fn fill<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> std::io::Result<usize> {
        let read = reader.read(&mut self.buffer[self.end..]).await?;
        self.end += read;
        self.is_flushed = false;
        Ok(read)
    }

    /// Moves bytes until one end is not ready. Ready once the end of the reader's stream was passed on to the writer.
    fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        mut on_bytes: impl FnMut(&[u8], bool) -> Result<(), FramingError>,
    ) -> Poll<Stop>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.start < self.end {
                match ready!(Pin::new(&mut *writer).poll_write(context, &self.buffer[self.start..self.end])) {
                    Ok(written) if written > 0 => self.start += written,
                    _ => return Poll::Ready(Stop::WriteFailed),
                }
            }
            self.start = 0;
            self.end = 0;
            if !self.is_flushed {
                if ready!(Pin::new(&mut *writer).poll_flush(context)).is_err() {
                    return Poll::Ready(Stop::WriteFailed);
                }
                self.is_flushed = true;
            }
            if self.is_ended {
                if !self.is_closed {
                    // If this fails the connection is broken, which the other direction detects.
                    let _failed = ready!(Pin::new(&mut *writer).poll_shutdown(context));
                    self.is_closed = true;
                }
                return Poll::Ready(Stop::Done);
            }
            let mut read = ReadBuf::new(&mut self.buffer);
            match ready!(Pin::new(&mut *reader).poll_read(context, &mut read)) {
                Ok(()) if read.filled().is_empty() => self.is_ended = true,
                Ok(()) => {
                    let filled = read.filled();
                    self.end = filled.len();
                    self.is_flushed = false;
                    let is_first = self.carried == 0;
                    self.carried = self.carried.wrapping_add(filled.len() as u64);
                    if on_bytes(filled, is_first).is_err() {
                        return Poll::Ready(Stop::Malformed);
                    }
                }
                Err(_) => return Poll::Ready(Stop::ReadFailed),
            }
        }
    }
}
