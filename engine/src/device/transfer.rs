//! One read or write on its way through the device.
//!
//! A future written by hand, because every I/O passes here: the operation begins in its slot when the transfer
//! is made, so that buffer, guard and flag move once, and what is left to wait for fits one cache line.
//!
//! Invariant: a transfer that ended well has moved every byte asked for and stands in the ledger.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as PollContext, Poll};

use super::{Backing, Inner, Io, Ledger};
use crate::buf::Buf;
use crate::error::{Error, Result};
use crate::runtime::{Operate, Operation, OperationKind};
use crate::units::ByteOffset;

/// Ends with the outcome and the buffer.
pub(super) struct Transfer<'a> {
    device: &'a Inner,
    way: Way<'a>,
    offset: ByteOffset,
    asked: u32,
    kind: OperationKind,
    cause: super::Cause,
}

enum Way<'a> {
    /// Refused before any I/O; `None` once told.
    Refused(Option<(Error, Buf)>),
    Operating(Operate<'a>),
    /// Through the volatile cache: a matter of several steps.
    Cached(Pin<Box<dyn Future<Output = (Result<()>, Buf)> + 'a>>),
}

impl<'a> Transfer<'a> {
    #[inline]
    pub fn begin(device: &'a Inner, kind: OperationKind, offset: ByteOffset, buf: Buf, io: Io) -> Self {
        let (asked, cause) = (buf.len() as u32, io.cause);
        let way = match device.check(name(kind), offset, u64::from(asked)) {
            Ok(()) => Self::way(device, kind, offset, buf, io),
            Err(error) => Way::Refused(Some((error, buf))),
        };
        Self { device, way, offset, asked, kind, cause }
    }

    #[inline]
    fn way(device: &'a Inner, kind: OperationKind, offset: ByteOffset, buf: Buf, io: Io) -> Way<'a> {
        match &device.backing {
            Backing::Target(target) => {
                let operation = Operation {
                    kind,
                    target: target.clone(),
                    offset: offset.0,
                    length: buf.len() as u64,
                    guard: io.guard,
                    failed: io.failed,
                };
                Way::Operating(device.context.operate(operation, Some(buf)))
            }
            Backing::Cached(cached) if kind == OperationKind::Read => {
                Way::Cached(Box::pin(cached.read(offset, buf, io)))
            }
            Backing::Cached(cached) => Way::Cached(Box::pin(cached.write(offset, buf, io))),
        }
    }
}

fn name(kind: OperationKind) -> &'static str {
    if kind == OperationKind::Read { "read" } else { "write" }
}

impl Future for Transfer<'_> {
    type Output = (Result<()>, Buf);

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut PollContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let asked = u64::from(this.asked);
        let (result, buf) = match &mut this.way {
            Way::Operating(operate) => match Pin::new(operate).poll(context) {
                Poll::Ready((result, Some(buf))) => {
                    (this.device.outcome(name(this.kind), this.offset, asked, result), buf)
                }
                Poll::Ready((_, None)) => unreachable!("a transfer's buffer comes back with it"),
                Poll::Pending => return Poll::Pending,
            },
            Way::Cached(steps) => match steps.as_mut().poll(context) {
                Poll::Ready(ended) => ended,
                Poll::Pending => return Poll::Pending,
            },
            Way::Refused(refused) => match refused.take() {
                Some((error, buf)) => return Poll::Ready((Err(error), buf)),
                None => panic!("a future is not polled after it has ended"),
            },
        };
        if result.is_ok() {
            let note = if this.kind == OperationKind::Read { Ledger::note_read } else { Ledger::note_write };
            note(&this.device.ledger, this.cause, asked);
        }
        Poll::Ready((result, buf))
    }
}
