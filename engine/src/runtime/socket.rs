//! A connected stream socket: receiving into a buffer, and sending what lies in several places with one request.
//!
//! For links and exports. Place: beside files; an operation of a socket passes through the same slab and driver. What is sent is
//! listed in a [`Gather`]: small pieces of one buffer, the *head*, and between them whole buffers, which are not copied.
//! Connecting and listening are the caller's.
//!
//! Invariants: what a gather lists belongs to it from the moment a send begins until that has ended, whether or not anybody still
//! waits for it; nothing of it changes meanwhile. A send moves everything or fails.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::Context;
use super::operation::{File, Operation, OperationKind, Target};
use crate::buf::Buf;
use crate::error::{Error, Reason, Result};

/// Pieces of one gather at most: as many as the kernel takes at once (`UIO_MAXIOV`).
pub const PIECES_MAX: usize = 1024;

/// A connected stream socket; bound to its runtime's thread. Dropping it ends the connection.
#[derive(Debug)]
pub struct Socket {
    context: Context,
    file: Rc<File>,
}

/// What is sent together: bytes of the head, and buffers.
pub struct Gather {
    pieces: RefCell<Pieces>,
    /// Begun and not ended.
    is_sending: Cell<bool>,
}

struct Pieces {
    head: Buf,
    head_bytes: usize,
    order: Vec<Piece>,
    bytes: usize,
    /// What the kernel is given: kept here because it must stay in its place while a send is under way.
    message: super::uring::Message,
    file: Option<Rc<File>>,
}

enum Piece {
    /// So many further bytes of the head.
    Head(usize),
    Whole(Buf),
}

impl std::fmt::Debug for Gather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gather").field("is_sending", &self.is_sending).finish_non_exhaustive()
    }
}

impl Gather {
    /// An empty list, over a head that has room for this many bytes.
    ///
    /// # Errors
    /// There is no buffer.
    pub fn new(context: &Context, head_bytes: usize) -> Result<Rc<Self>> {
        let pieces = Pieces {
            head: context.buffers().get(head_bytes)?,
            head_bytes: 0,
            order: Vec::new(),
            bytes: 0,
            message: super::uring::Message::default(),
            file: None,
        };
        Ok(Rc::new(Self { pieces: RefCell::new(pieces), is_sending: Cell::new(false) }))
    }

    /// Whether a few bytes for the head, so many, and a buffer find room.
    pub fn has_room(&self, head_bytes: usize) -> bool {
        let pieces = self.pieces.borrow();
        pieces.head.len() - pieces.head_bytes >= head_bytes && pieces.order.len() + 2 <= PIECES_MAX
    }

    /// Bytes that are listed.
    pub fn bytes(&self) -> usize {
        self.pieces.borrow().bytes
    }

    /// Adds a few bytes, which are copied.
    ///
    /// # Panics
    /// Where there is no room, or while it is being sent.
    pub fn add(&self, bytes: &[u8]) {
        assert!(
            !self.is_sending.get() && self.has_room(bytes.len()),
            "what is sent has room and does not change"
        );
        let pieces = &mut *self.pieces.borrow_mut();
        let at = pieces.head_bytes;
        pieces.head[at..at + bytes.len()].copy_from_slice(bytes);
        pieces.head_bytes += bytes.len();
        pieces.bytes += bytes.len();
        match pieces.order.last_mut() {
            Some(Piece::Head(count)) => *count += bytes.len(),
            _ => pieces.order.push(Piece::Head(bytes.len())),
        }
    }

    /// Adds a buffer, which is not copied.
    ///
    /// # Panics
    /// As [`Gather::add`].
    pub fn add_whole(&self, buf: Buf) {
        assert!(!self.is_sending.get() && self.has_room(0), "what is sent has room and does not change");
        let pieces = &mut *self.pieces.borrow_mut();
        pieces.bytes += buf.len();
        pieces.order.push(Piece::Whole(buf));
    }

    /// Empties the list and gives its buffers back, in their order.
    ///
    /// # Panics
    /// While it is being sent.
    pub fn clear(&self, mut back: impl FnMut(Buf)) {
        assert!(!self.is_sending.get(), "what is being sent is not taken away");
        let pieces = &mut *self.pieces.borrow_mut();
        (pieces.head_bytes, pieces.bytes) = (0, 0);
        for piece in pieces.order.drain(..) {
            if let Piece::Whole(buf) = piece {
                back(buf);
            }
        }
    }

    /// Notes that a send has ended.
    pub(super) fn has_ended(&self) {
        self.pieces.borrow_mut().file = None;
        self.is_sending.set(false);
    }

    /// The socket that it is sent to.
    pub(super) fn file(&self) -> Option<Rc<File>> {
        self.pieces.borrow().file.clone()
    }

    /// Address and length of each piece behind the first `done` bytes, written into the message that the kernel is given.
    pub(super) fn message(&self, done: usize) -> *const libc::msghdr {
        let Pieces { head, order, message, .. } = &mut *self.pieces.borrow_mut();
        message.begin();
        each(head, order, done, |bytes| message.add(bytes.as_ptr().cast_mut(), bytes.len()));
        message.finish()
    }

    /// The pieces behind the first `done` bytes.
    pub(super) fn with_slices<T>(&self, done: usize, work: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let pieces = self.pieces.borrow();
        let mut slices = Vec::with_capacity(pieces.order.len());
        each(&pieces.head, &pieces.order, done, |bytes| slices.push(IoSlice::new(bytes)));
        work(&slices)
    }
}

fn each<'a>(head: &'a Buf, order: &'a [Piece], done: usize, mut take: impl FnMut(&'a [u8])) {
    let (mut skip, mut head_at) = (done, 0);
    for piece in order {
        let bytes = match piece {
            Piece::Head(count) => {
                head_at += count;
                &head[head_at - count..head_at]
            }
            Piece::Whole(buf) => &buf[..],
        };
        if skip >= bytes.len() {
            skip -= bytes.len();
        } else {
            take(&bytes[skip..]);
            skip = 0;
        }
    }
}

impl Socket {
    /// Takes over a connected stream socket.
    ///
    /// # Errors
    /// A simulation has no sockets; or the system cannot make it wait for data, as the ring needs.
    pub fn adopt(context: &Context, fd: OwnedFd) -> Result<Self> {
        if context.io_path().kind == "simulated" {
            return Err(failed("open socket", libc::EOPNOTSUPP));
        }
        rustix::io::ioctl_fionbio(&fd, false).map_err(|errno| failed("open socket", errno.raw_os_error()))?;
        Ok(Self { context: context.clone(), file: context.adopt_file(fd, None) })
    }

    /// Waits for bytes and puts them into the buffer from `at` on: as many as there are, one at least, `most` at most. 0 bytes
    /// mean that the other end sends no more.
    ///
    /// # Errors
    /// What the system says of the connection.
    ///
    /// # Panics
    /// If there is no room for so many, or for none.
    pub async fn receive(&self, buf: Buf, at: usize, most: usize) -> (Result<usize>, Buf) {
        assert!(most > 0 && at + most <= buf.len(), "what is received finds room");
        let operation = Operation {
            kind: OperationKind::Receive,
            target: Target::File(Rc::clone(&self.file)),
            offset: at as u64,
            length: most as u64,
            guard: None,
            failed: None,
        };
        match self.context.operate(operation, Some(buf)).await {
            (result, Some(buf)) => {
                (result.map(|bytes| bytes as usize).map_err(|errno| failed("receive", errno)), buf)
            }
            (_, None) => unreachable!("a buffer comes back from its operation"),
        }
    }

    /// Sends everything that is listed.
    ///
    /// # Errors
    /// What the system says of the connection; how much was sent is not known then.
    ///
    /// # Panics
    /// If it is being sent already.
    pub async fn send(&self, gather: &Rc<Gather>) -> Result<()> {
        let length = gather.bytes() as u64;
        assert!(!gather.is_sending.replace(true), "a list is sent once at a time");
        gather.pieces.borrow_mut().file = Some(Rc::clone(&self.file));
        let operation = Operation {
            kind: OperationKind::Send,
            target: Target::Gather(Rc::clone(gather)),
            offset: 0,
            length,
            guard: None,
            failed: None,
        };
        let (result, _no_buffer) = self.context.operate(operation, None).await;
        // It may never have begun.
        gather.has_ended();
        match result {
            Ok(done) if done == length => Ok(()),
            Ok(done) => Err(Error::new("send", Reason::ShortTransfer { asked: length, done })),
            Err(errno) => Err(failed("send", errno)),
        }
    }

    /// Ends the connection in both directions. What is under way ends too, and the other end sees it at once.
    pub fn shut_down(&self) {
        // Fails only where the connection has ended already.
        let _ended_before = rustix::net::shutdown(self.file.fd.as_fd(), rustix::net::Shutdown::Both);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The ring may hold the descriptor a moment longer.
        self.shut_down();
    }
}

fn failed(operation: &'static str, errno: i32) -> Error {
    Error::from_errno(operation, errno)
}

#[cfg(test)]
mod tests;
