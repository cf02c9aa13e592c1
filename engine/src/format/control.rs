//! A message of the control socket: a header, then the fields of a body.
//!
//! On the wire only, between programs of one machine. A body is a row of fields without names: numbers of 8 bytes,
//! texts of a length and so many bytes of UTF-8, identities of 16 bytes; one that may be missing has a number in front,
//! 0 or 1. Promise: no header makes a reader take more than it is ready for, and no body is read beyond its end.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Reason, Result};

/// What a message begins with.
pub const MAGIC: [u8; 4] = *b"ICTL";
/// The version of all messages that this build speaks.
pub const VERSION: u32 = 1;
/// Bytes of a request's body at most: a few names.
pub const REQUEST_BYTES_MAX: usize = 4 << 10;
/// Bytes of an answer's body at most: four million regions of a difference.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// `kind` of a request: how is the volume?
pub const KIND_STATUS: u32 = 1;
/// `kind` of a request: make everything durable.
pub const KIND_FLUSH: u32 = 2;
/// `kind` of a request: which snapshots are there?
pub const KIND_SNAPSHOTS: u32 = 3;
/// `kind` of a request: name the present moment.
pub const KIND_TAKE: u32 = 4;
/// `kind` of a request: give a name up.
pub const KIND_DELETE: u32 = 5;
/// `kind` of a request: which regions differ between two moments?
pub const KIND_DIFFERENCE: u32 = 6;
/// `kind` of a request: go back to a moment.
pub const KIND_ROLLBACK: u32 = 7;
/// `kind` of a request: make a writable snapshot.
pub const KIND_CLONE: u32 = 8;
/// `kind` of a request: lock a snapshot.
pub const KIND_LOCK: u32 = 10;
/// `kind` of a request: unlock a snapshot.
pub const KIND_UNLOCK: u32 = 11;
/// `kind` of a request: hold volumes of the pool for snapshots of a group, and make them durable.
pub const KIND_HOLD: u32 = 12;
/// `kind` of a request: name the moments of what is held.
pub const KIND_NAME_HELD: u32 = 13;
/// `kind` of a request: let go of what is held.
pub const KIND_LET_GO: u32 = 14;
/// `kind` of a request: make a further volume in the pool.
pub const KIND_MAKE_VOLUME: u32 = 15;
/// `kind` of a request: which further volumes are there?
pub const KIND_VOLUMES: u32 = 16;
/// `kind` of a request: give a further volume up.
pub const KIND_DELETE_VOLUME: u32 = 17;
/// `kind` of an answer to a request of this kind plus this number.
pub const ANSWER_TO: u32 = 0x100;
/// `kind` of an answer: refused, or failed. Its body is the same in all versions.
pub const KIND_FAILED: u32 = 0x200;

/// The header of a message, 16 bytes; the same in all versions.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `magic`: `ICTL` |
/// | 4 | 4 | `version`: 1 |
/// | 8 | 4 | `kind`: what is asked or answered |
/// | 12 | 4 | `body_bytes`: what follows; 4,096 at most in a request, 64 MiB in an answer |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct ControlHeader {
    pub magic: [u8; 4],
    pub version: U32,
    pub kind: U32,
    pub body_bytes: U32,
}

/// Bytes of a header.
pub const HEADER_BYTES: usize = size_of::<ControlHeader>();

const _: () = {
    assert!(HEADER_BYTES == 16);
    assert!(std::mem::offset_of!(ControlHeader, body_bytes) == 12);
    assert!(ANSWER_BYTES_MAX < u32::MAX as usize);
};

/// The refusal of a message that says something which cannot be.
pub fn bad(why: &'static str) -> Error {
    Error::new("read message", Reason::BadMessage { why })
}

impl ControlHeader {
    /// The kind of the message that these bytes begin, and the bytes of its body, `most` of them at most. An answer that
    /// tells of a failure is read in every version.
    ///
    /// # Errors
    /// `BadMessage`, `ControlVersion`, `TransferTooLong`.
    pub fn decode(bytes: &[u8; HEADER_BYTES], most: usize) -> Result<(u32, usize)> {
        let header: Self = zerocopy::transmute!(*bytes);
        if header.magic != MAGIC {
            return Err(bad("it does not begin with ICTL"));
        }
        let (found, known, kind) = (header.version.get(), VERSION, header.kind.get());
        if found != known && kind != KIND_FAILED {
            return Err(Error::new("read message", Reason::ControlVersion { found, known }));
        }
        let length = header.body_bytes.get() as usize;
        if length > most {
            let reason = Reason::TransferTooLong { length: length as u64, limit: most as u64 };
            return Err(Error::new("read message", reason));
        }
        Ok((kind, length))
    }
}

/// A message that is being made.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// One of this kind, still without fields.
    pub fn new(kind: u32) -> Self {
        let (version, kind) = (VERSION.into(), kind.into());
        Self(ControlHeader { magic: MAGIC, version, kind, body_bytes: 0.into() }.as_bytes().to_vec())
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(U64::new(number).as_bytes());
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self = self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Adds an identity.
    #[must_use]
    pub fn id(mut self, id: &[u8; 16]) -> Self {
        self.0.extend_from_slice(id);
        self
    }

    /// Adds what may be missing.
    #[must_use]
    pub fn maybe<T>(self, value: Option<T>, add: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            None => self.number(0),
            Some(value) => add(self.number(1), value),
        }
    }

    /// The message, if its body is as long as one may be.
    ///
    /// # Errors
    /// `TransferTooLong`.
    pub fn finish(mut self, most: usize) -> Result<Vec<u8>> {
        let length = self.0.len() - HEADER_BYTES;
        if length > most {
            let reason = Reason::TransferTooLong { length: length as u64, limit: most as u64 };
            return Err(Error::new("write message", reason));
        }
        let at = HEADER_BYTES - size_of::<U32>();
        self.0[at..HEADER_BYTES].copy_from_slice(U32::new(length as u32).as_bytes());
        Ok(self.0)
    }
}

/// The fields of a body that are still to be read.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// All of them.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let count = usize::try_from(count).ok().filter(|count| *count <= self.0.len());
        let (taken, rest) = self.0.split_at(count.ok_or_else(|| bad("it ends in the middle of a field"))?);
        self.0 = rest;
        Ok(taken)
    }

    /// A number.
    ///
    /// # Errors
    /// `BadMessage`, as for all of them.
    pub fn number(&mut self) -> Result<u64> {
        let bytes = self.take(size_of::<u64>() as u64)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A number that a type of its own holds.
    pub fn small<T: TryFrom<u64>>(&mut self) -> Result<T> {
        self.number()?.try_into().map_err(|_too_large| bad("a number is too large"))
    }

    /// A text.
    pub fn text(&mut self) -> Result<String> {
        let length = self.number()?;
        let text = std::str::from_utf8(self.take(length)?);
        text.map(str::to_string).map_err(|_not_text| bad("a text is not UTF-8"))
    }

    /// An identity.
    pub fn id(&mut self) -> Result<[u8; 16]> {
        let mut id = [0; 16];
        id.copy_from_slice(self.take(16)?);
        Ok(id)
    }

    /// Whether something holds.
    pub fn flag(&mut self) -> Result<bool> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(bad("a flag is neither 0 nor 1")),
        }
    }

    /// What may be missing.
    pub fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    /// So many of a kind as a number in front of them says; each is `bytes_min` long at least.
    pub fn several<T>(
        &mut self,
        bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.number()?;
        if count > (self.0.len() / bytes_min) as u64 {
            return Err(bad("it has fewer items than it says"));
        }
        (0..count).map(|_| read(self)).collect()
    }

    /// Nothing is left to read.
    pub fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(bad("it goes on behind its last field")) }
    }
}
