//! Whether a device already carries somebody else's data: a file system, a partition table, a volume
//! manager's or a RAID member's label, an encrypted container, a virtual disk.
//!
//! Two pieces are looked at, the first and the last megabyte, because every format in the table keeps
//! its mark in one of them. A format's copies further in are not searched: where only those are left,
//! the mark by which the format is found has been overwritten.
//!
//! Asked before a device is formatted, never of a device that carries a volume: the bytes of a volume
//! may hold anything, signatures included. A match is decided by the magic number and, where that is
//! short, by the fields beside it; checksums are not verified, so that a damaged file system still
//! counts as one. The probe never panics, whatever the bytes and the size.

mod table;

use std::ops::Range;

use crate::error::{Error, Reason, Result};
use table::{Entry, Place, TABLE};

/// The length of each of the two pieces, in bytes. The farthest mark from the start is a GFS2 or btrfs
/// superblock after 64 KiB and the second ZFS label at 256 KiB; the farthest from the end is the third
/// ZFS label, up to 768 KiB before it.
pub const PIECE_BYTES: u64 = 1024 * 1024;

/// What the pieces start at multiples of, in bytes: enough for direct I/O on every device.
const PIECE_ALIGNMENT_BYTES: u64 = 4096;

/// A mark that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What it belongs to.
    pub name: &'static str,
    /// Where its magic number was found, in bytes from the device's start.
    pub at: u64,
}

impl Signature {
    /// The refusal to overwrite it.
    pub fn refusal(self) -> Error {
        Error::new("format", Reason::ForeignSignature { name: self.name, at: self.at })
    }
}

/// The two pieces of a device of `size_bytes` that [`probe_pieces`] looks at, in bytes. Both start at
/// a multiple of 4096 and end there too or at the device's end, so that direct I/O can read them. On a
/// device of less than two megabytes they overlap.
pub fn pieces(size_bytes: u64) -> [Range<u64>; 2] {
    let tail = size_bytes.saturating_sub(PIECE_BYTES);
    [0..size_bytes.min(PIECE_BYTES), tail - tail % PIECE_ALIGNMENT_BYTES..size_bytes]
}

/// Looks for a foreign signature on a device of `size_bytes`. `read` fills a buffer from an offset; it
/// is called at most twice, with the ranges of [`pieces`].
///
/// # Errors
/// Only those of `read`.
pub fn probe(
    size_bytes: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Option<Signature>> {
    let mut bytes = [Vec::new(), Vec::new()];
    for (buffer, piece) in bytes.iter_mut().zip(pieces(size_bytes)) {
        // At most a piece and its alignment.
        buffer.resize((piece.end - piece.start) as usize, 0);
        if !buffer.is_empty() {
            read(piece.start, buffer)?;
        }
    }
    let [head, tail] = &bytes;
    Ok(probe_pieces(size_bytes, head, tail))
}

/// Looks for a foreign signature in the two pieces of [`pieces`], already read. Of several the one most
/// worth telling is returned.
pub fn probe_pieces(size_bytes: u64, head: &[u8], tail: &[u8]) -> Option<Signature> {
    let tail_start = size_bytes.checked_sub(tail.len() as u64)?;
    let view = View { size_bytes, head, tail_start, tail };
    TABLE.iter().find_map(|entry| entry.find(&view))
}

/// The two pieces, addressed by their place on the device.
struct View<'a> {
    size_bytes: u64,
    head: &'a [u8],
    tail_start: u64,
    tail: &'a [u8],
}

impl View<'_> {
    /// The bytes there, or `None` where they are in neither piece.
    fn bytes(&self, at: u64, length: usize) -> Option<&[u8]> {
        let within = |start: u64| {
            let from = usize::try_from(at.checked_sub(start)?).ok()?;
            Some(from..from.checked_add(length)?)
        };
        self.head.get(within(0)?).or_else(|| self.tail.get(within(self.tail_start)?))
    }

    fn array<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        self.bytes(at, N)?.try_into().ok()
    }

    fn byte(&self, at: u64) -> Option<u8> {
        Some(self.array::<1>(at)?[0])
    }

    fn u16_le(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32_le(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }
}

impl Entry {
    fn find(&self, view: &View<'_>) -> Option<Signature> {
        let at = self.places.iter().filter_map(|place| place.offset(view.size_bytes)).find(|at| {
            view.bytes(*at, self.magic.len()) == Some(self.magic)
                && (self.plausible)(view, *at).unwrap_or(false)
        })?;
        Some(Signature { name: self.name, at })
    }
}

impl Place {
    /// Where on a device of this size, or `None` on one too small to have the place.
    fn offset(self, size_bytes: u64) -> Option<u64> {
        match self {
            Place::Start(offset) => Some(offset),
            Place::End(back) => size_bytes.checked_sub(back),
            Place::AlignedEnd { multiple, back } => (size_bytes - size_bytes % multiple).checked_sub(back),
        }
    }
}

#[cfg(test)]
mod tests;
