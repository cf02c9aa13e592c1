//! What comes back on a connection: simple and structured replies, in pieces of any length, in any order.
//!
//! Small data are copied out of the buffer that many replies come in together; what is not there yet of longer ones is received in its
//! place. Invariants: nothing is written outside the range that a read has asked for, and no byte of it twice; a reply that breaks the
//! protocol ends the connection, because what follows cannot be told apart any more.

use std::rc::Rc;

use icecore::buf::Buf;
use icecore::error::{Error, Kind, Result};
use icecore::format::nbd::{
    self, CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE, CMD_READ, Chunk, Hole, Reply, SimpleReply,
    TEXT_BYTES_MAX,
};
use icecore::runtime::Socket;
use zerocopy::FromBytes;

use super::connection::Connection;
use super::told;

/// Bytes that are received together at most.
pub(super) const INCOMING_BYTES: usize = 128 << 10;
/// Pieces of one read, apart from each other, at most: servers send one, or a few where there are holes.
const PIECES_MAX: usize = 4096;
/// Bytes of the payload of an error at most: a text and a few numbers.
const FAILURE_BYTES_MAX: u32 = TEXT_BYTES_MAX as u32 + 64;

/// The parts of a read that have come, apart from each other and in order.
#[derive(Debug, Default)]
pub(super) struct Covered(Vec<(u32, u32)>);

impl Covered {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a part, from its first byte to behind its last.
    fn add(&mut self, begin: u32, end: u32) -> Result<()> {
        let at = self.0.partition_point(|part| part.1 < begin);
        let overlaps = |part: Option<&(u32, u32)>| part.is_some_and(|part| part.0 < end && begin < part.1);
        if overlaps(self.0.get(at)) || overlaps(self.0.get(at + 1)) {
            return Err(nbd::bad("a reply has the same bytes twice"));
        }
        let joins_left = self.0.get(at).is_some_and(|part| part.1 == begin);
        let right = if joins_left { at + 1 } else { at };
        let joins_right = self.0.get(right).is_some_and(|part| part.0 == end);
        match (joins_left, joins_right) {
            (true, true) => {
                self.0[at].1 = self.0[right].1;
                self.0.remove(right);
            }
            (true, false) => self.0[at].1 = end,
            (false, true) => self.0[right].0 = begin,
            (false, false) if self.0.len() == PIECES_MAX => {
                return Err(nbd::bad("a reply comes in too many pieces"));
            }
            (false, false) => self.0.insert(at, (begin, end)),
        }
        Ok(())
    }

    fn is_whole(&self, length: u32) -> bool {
        length == 0 || self.0.as_slice() == [(0, length)]
    }
}

/// Hears replies until the connection ends.
pub(super) async fn receive_all(connection: Rc<Connection>, buf: Buf) {
    let mut incoming = Incoming { socket: &connection.socket, buf: Some(buf), start: 0, end: 0 };
    let error = loop {
        match next(&connection, &mut incoming).await {
            Ok(true) => connection.hears(),
            Ok(false) => {
                let text = match connection.in_flight() {
                    0 => "the server has closed the connection".to_owned(),
                    count => {
                        format!("the server has closed the connection, with {count} requests not answered")
                    }
                };
                break told("wait for a reply", Kind::Unavailable, text);
            }
            Err(error) => break error,
        }
    };
    connection.fail(error);
}

/// The next reply, or chunk of one. False where the server has closed the connection before it.
async fn next(connection: &Connection, incoming: &mut Incoming<'_>) -> Result<bool> {
    if !incoming.need(4).await? {
        return Ok(false);
    }
    let mut magic = [0; 4];
    magic.copy_from_slice(incoming.seen(4));
    let header_bytes = Reply::header_bytes(magic)?;
    incoming.must(header_bytes).await?;
    let reply = Reply::decode(incoming.seen(header_bytes))?;
    incoming.pass(header_bytes);
    match reply {
        Reply::Simple(reply) => simple(connection, incoming, &reply).await?,
        Reply::Chunk(chunk) => structured(connection, incoming, &chunk).await?,
    }
    Ok(true)
}

async fn simple(connection: &Connection, incoming: &mut Incoming<'_>, reply: &SimpleReply) -> Result<()> {
    let index = connection.answered(reply.handle.get())?;
    let (command, length) = connection.with(index, |slot| (slot.command, slot.length_bytes));
    if command == CMD_READ && connection.agreed.structured {
        return Err(nbd::bad("a read has a simple reply, and structured ones were agreed on"));
    }
    if reply.error.get() != 0 {
        connection.finish(index, Err(failure(command, reply.error.get(), "")));
        return Ok(());
    }
    if command == CMD_READ {
        place(connection, incoming, index, 0, length).await?;
    }
    connection.finish(index, Ok(()));
    Ok(())
}

async fn structured(connection: &Connection, incoming: &mut Incoming<'_>, chunk: &Chunk) -> Result<()> {
    if !connection.agreed.structured {
        return Err(nbd::bad("a structured reply comes, and none was agreed on"));
    }
    let index = connection.answered(chunk.handle.get())?;
    let (kind, payload) = (chunk.kind.get(), chunk.payload_bytes.get());
    let command = connection.with(index, |slot| slot.command);
    match kind {
        CHUNK_NONE if payload == 0 && chunk.is_last() => {}
        CHUNK_OFFSET_DATA if command == CMD_READ && payload > 8 => {
            incoming.must(8).await?;
            let mut offset = [0; 8];
            offset.copy_from_slice(incoming.seen(8));
            incoming.pass(8);
            let at = within(connection, index, u64::from_be_bytes(offset), payload - 8)?;
            place(connection, incoming, index, at, payload - 8).await?;
        }
        CHUNK_OFFSET_HOLE if command == CMD_READ && payload as usize == size_of::<Hole>() => {
            incoming.must(size_of::<Hole>()).await?;
            let hole = Hole::read_from_bytes(incoming.seen(size_of::<Hole>()));
            let hole = hole.map_err(|_size| nbd::bad("a hole has a wrong length"))?;
            incoming.pass(size_of::<Hole>());
            let length = hole.length_bytes.get();
            let at = within(connection, index, hole.offset_bytes.get(), length)?;
            let mut buf = connection.lend(index)?;
            buf[at as usize..(at + length) as usize].fill(0);
            connection.give_back(index, buf);
        }
        _ if chunk.is_failure() => {
            if payload > FAILURE_BYTES_MAX {
                return Err(nbd::bad("an error is longer than any text may be"));
            }
            incoming.must(payload as usize).await?;
            let (number, text, _place) = nbd::decode_failure(kind, incoming.seen(payload as usize))?;
            let error = failure(command, number, text);
            connection.with(index, |slot| {
                slot.error.get_or_insert(error);
            });
            incoming.pass(payload as usize);
        }
        _ => return Err(nbd::bad("a chunk is none that this request may be answered with")),
    }
    if chunk.is_last() {
        let (error, is_whole) = connection.with(index, |slot| {
            let is_whole = slot.command != CMD_READ || slot.covered.is_whole(slot.length_bytes);
            (slot.error.take(), is_whole)
        });
        match error {
            Some(error) => connection.finish(index, Err(error)),
            None if is_whole => connection.finish(index, Ok(())),
            None => return Err(nbd::bad("a reply ends before all bytes of the read have come")),
        }
    }
    Ok(())
}

/// Where in a read's buffer a part of the export belongs; notes that it has come.
fn within(connection: &Connection, index: u32, offset_bytes: u64, length: u32) -> Result<u32> {
    connection.with(index, |slot| {
        let at = offset_bytes.checked_sub(slot.offset_bytes).and_then(|at| u32::try_from(at).ok());
        let end = at.and_then(|at| at.checked_add(length)).filter(|end| *end <= slot.length_bytes);
        match at.zip(end) {
            Some((at, end)) if length > 0 => slot.covered.add(at, end).map(|()| at),
            _ => Err(nbd::bad("a reply has other bytes than the read has asked for")),
        }
    })
}

/// Receives bytes into the buffer of a read.
async fn place(
    connection: &Connection,
    incoming: &mut Incoming<'_>,
    index: u32,
    at: u32,
    length: u32,
) -> Result<()> {
    let buf = connection.lend(index)?;
    let (result, buf) = incoming.fill_place(buf, at as usize, length as usize).await;
    connection.give_back(index, buf);
    result
}

/// What a server's error means.
fn failure(command: u16, number: u32, text: &str) -> Error {
    let operation = match command {
        CMD_READ => "read",
        nbd::CMD_WRITE => "write",
        nbd::CMD_FLUSH => "flush",
        _ => "ask",
    };
    let errno = i32::try_from(number).unwrap_or(libc::EIO);
    if text.is_empty() {
        return Error::from_errno(operation, errno);
    }
    let system = std::io::Error::from_raw_os_error(errno);
    told(operation, Error::from_errno(operation, errno).kind(), format!("{system} (the server says: {text})"))
}

/// Bytes that have come and have not been looked at.
struct Incoming<'a> {
    socket: &'a Socket,
    /// Taken while it is received into.
    buf: Option<Buf>,
    start: usize,
    end: usize,
}

impl Incoming<'_> {
    /// The next so many bytes, which have been needed before.
    fn seen(&self, count: usize) -> &[u8] {
        self.buf.as_deref().map_or(&[], |buf| &buf[self.start..self.start + count])
    }

    fn pass(&mut self, count: usize) {
        self.start += count;
    }

    /// Waits until there are so many, [`INCOMING_BYTES`] at most. False where the server has closed the connection and nothing is left.
    async fn need(&mut self, count: usize) -> Result<bool> {
        while self.end - self.start < count {
            let Some(mut buf) = self.buf.take() else {
                return Err(nbd::bad("the connection has failed before"));
            };
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            } else if buf.len() - self.start < count {
                buf.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let room = buf.len() - self.end;
            let (result, back) = self.socket.receive(buf, self.end, room).await;
            self.buf = Some(back);
            match result? {
                0 if self.start == self.end => return Ok(false),
                0 => return Err(cut()),
                received => self.end += received,
            }
        }
        Ok(true)
    }

    async fn must(&mut self, count: usize) -> Result<()> {
        if count == 0 || self.need(count).await? { Ok(()) } else { Err(cut()) }
    }

    /// Moves the next so many bytes to a place in a buffer.
    async fn fill_place(&mut self, mut buf: Buf, at: usize, length: usize) -> (Result<()>, Buf) {
        let mut done = length.min(self.end - self.start);
        buf[at..at + done].copy_from_slice(self.seen(done));
        self.pass(done);
        // As much again as a buffer of many replies holds is worth a call of its own.
        while length - done >= INCOMING_BYTES / 2 {
            let (result, back) = self.socket.receive(buf, at + done, length - done).await;
            buf = back;
            match result {
                Ok(0) => return (Err(cut()), buf),
                Ok(received) => done += received,
                Err(error) => return (Err(error), buf),
            }
        }
        while done < length {
            let part = (length - done).min(INCOMING_BYTES);
            if let Err(error) = self.must(1).await {
                return (Err(error), buf);
            }
            let part = part.min(self.end - self.start);
            buf[at + done..at + done + part].copy_from_slice(self.seen(part));
            self.pass(part);
            done += part;
        }
        (Ok(()), buf)
    }
}

fn cut() -> Error {
    told("wait for a reply", Kind::Unavailable, "the server closed the connection in the middle of a reply")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_in_any_order_make_a_whole_and_none_comes_twice() {
        let mut covered = Covered::default();
        for (begin, end) in [(10, 20), (0, 5), (30, 40), (20, 30), (5, 10)] {
            assert!(!covered.is_whole(40), "{covered:?}");
            covered.add(begin, end).unwrap();
        }
        assert!(covered.is_whole(40) && !covered.is_whole(41), "{covered:?}");
        for (begin, end) in [(0, 1), (39, 40), (5, 35), (0, 41), (39, 50)] {
            assert!(covered.add(begin, end).is_err(), "{begin}..{end}");
        }
        let mut apart = Covered::default();
        apart.add(10, 20).unwrap();
        for (begin, end) in [(5, 11), (19, 25), (0, 30), (12, 13), (10, 20)] {
            assert!(apart.add(begin, end).is_err(), "{begin}..{end}");
        }
        apart.add(25, 30).unwrap();
        assert!(apart.add(20, 26).is_err() && apart.add(22, 25).is_ok(), "{apart:?}");
        let mut many = Covered::default();
        let refused = (0..10_000).find(|number| many.add(number * 2, number * 2 + 1).is_err());
        assert_eq!(refused, Some(PIECES_MAX as u32));
    }
}
