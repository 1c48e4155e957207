//! The pump between a probe and the ObjectServer: forwards bytes unchanged and shows them to [`Passing`] as they pass.
//!
//! Two buffers of [`BUFFER`] bytes, allocated once; no lock, no allocation and no timer on the way of a byte. One direction waits for its
//! reader without holding up the other, and no more is read than the other end has taken.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::metrics::{Ending, Metrics};
use super::passing::{Broken, Passing};
use super::tracker::Outstanding;

/// Size of each of a session's two buffers, in bytes.
pub const BUFFER: usize = 16 * 1024;

/// A probe's connection and the one to the ObjectServer that serves it.
#[derive(Debug)]
pub struct Link<'a, C, U> {
    client: &'a mut C,
    upstream: U,
    to_upstream: Lane,
    to_client: Lane,
    passing: Passing,
    messages: u64,
    metrics: &'a Metrics,
}

/// What a session has to know of its link to set its timers. [`Link::advance`] returns when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The client has sent a whole message: its login.
    pub has_logged_in: bool,
    /// The client has begun a message and not ended it.
    pub is_mid_message: bool,
    /// One end has closed its direction.
    pub is_half_closed: bool,
    /// Whether the session could be closed; [`Outstanding::Request`] too while bytes wait in a buffer. Only kept up to date when asked for.
    pub outstanding: Outstanding,
    /// Moves with each byte while `outstanding` is unsure, to tell a quiet moment.
    pub activity: u64,
}

/// What made [`Link::advance`] return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The standing is another one now.
    Changed,
    /// The link is over.
    Ended(Ending),
}

impl<'a, C, U> Link<'a, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Joins the two. `first` holds what the client has sent already, and `passing` knows by it what the session carries.
    ///
    /// # Errors
    ///
    /// [`Broken`] when the rest of it is something else.
    pub fn join(
        client: &'a mut C,
        upstream: U,
        first: Lane,
        mut passing: Passing,
        metrics: &'a Metrics,
    ) -> Result<Self, Broken> {
        let messages = u64::from(passing.client(first.waiting())?);
        metrics.bytes_to_upstream.inc_by(first.waiting().len() as u64);
        Ok(Self {
            client,
            upstream,
            to_upstream: first,
            to_client: Lane::default(),
            passing,
            messages,
            metrics,
        })
    }

    /// Messages that the client has completed.
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether bytes of the client wait for the ObjectServer to take them.
    pub fn is_waiting_for_upstream(&self) -> bool {
        !self.to_upstream.is_delivered()
    }

    /// The present standing.
    pub fn standing(&self, is_draining: bool) -> Standing {
        let outstanding = if is_draining && self.to_upstream.is_delivered() && self.to_client.is_delivered() {
            self.passing.outstanding()
        } else {
            Outstanding::Request
        };
        Standing {
            has_logged_in: self.messages > 0,
            is_mid_message: self.passing.is_client_mid_message(),
            is_half_closed: self.to_upstream.is_ended || self.to_client.is_ended,
            outstanding,
            activity: if outstanding == Outstanding::Unsure {
                self.to_upstream.carried + self.to_client.carried
            } else {
                0
            },
        }
    }

    /// Forwards until the link ends or its standing is not `seen` any more. Loses nothing when its future is dropped.
    pub async fn advance(&mut self, is_draining: bool, seen: Standing) -> Progress {
        std::future::poll_fn(|context| self.poll(context, is_draining, seen)).await
    }

    fn poll(&mut self, context: &mut Context<'_>, is_draining: bool, seen: Standing) -> Poll<Progress> {
        let Self {
            client,
            upstream,
            to_upstream,
            to_client,
            passing,
            messages,
            metrics,
        } = self;

        let answers = to_client.poll(context, upstream, *client, |bytes, is_first| {
            metrics.bytes_to_client.inc_by(bytes.len() as u64);
            passing.upstream(bytes, is_first)
        });
        match answers {
            Poll::Ready(Stop::Malformed) => return Poll::Ready(Progress::Ended(Ending::UpstreamTls)),
            Poll::Ready(Stop::Done | Stop::ReadFailed) => return Poll::Ready(Progress::Ended(Ending::Upstream)),
            Poll::Ready(Stop::WriteFailed) => return Poll::Ready(Progress::Ended(Ending::Client)),
            Poll::Pending => {}
        }

        let requests = to_upstream.poll(context, *client, upstream, |bytes, _| {
            metrics.bytes_to_upstream.inc_by(bytes.len() as u64);
            *messages += u64::from(passing.client(bytes)?);
            Ok(())
        });
        match requests {
            Poll::Ready(Stop::ReadFailed) => return Poll::Ready(Progress::Ended(Ending::Client)),
            Poll::Ready(Stop::WriteFailed) => return Poll::Ready(Progress::Ended(Ending::Upstream)),
            Poll::Ready(Stop::Malformed) => return Poll::Ready(Progress::Ended(Ending::Malformed)),
            // The client has closed its direction; answers may still come.
            Poll::Ready(Stop::Done) | Poll::Pending => {}
        }

        if self.standing(is_draining) == seen {
            Poll::Pending
        } else {
            Poll::Ready(Progress::Changed)
        }
    }
}

/// One direction: a buffer on its way from a reader to a writer.
#[derive(Debug)]
pub struct Lane {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Nothing that was written waits inside the writer, as it may in TLS.
    is_flushed: bool,
    /// The reader has reached its end.
    is_ended: bool,
    /// And the writer has been told.
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

    /// Whether all that was read is with the writer's kernel.
    fn is_delivered(&self) -> bool {
        self.start == self.end && self.is_flushed
    }

    /// Reads once, behind what is waiting. Returns the number of bytes, 0 at the end of the stream or when the buffer is full.
    ///
    /// # Errors
    ///
    /// Those of the reader.
    pub async fn fill<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> std::io::Result<usize> {
        let read = tokio::io::AsyncReadExt::read(reader, &mut self.buffer[self.end..]).await?;
        self.end += read;
        self.is_flushed = false;
        Ok(read)
    }

    /// Moves bytes until one end is not ready. Ready when the reader's end has been passed on, and from then on.
    fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        mut on_bytes: impl FnMut(&[u8], bool) -> Result<(), Broken>,
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
                    // A writer that cannot be shut down is gone, which its own direction finds out.
                    let _gone = ready!(Pin::new(&mut *writer).poll_shutdown(context));
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
