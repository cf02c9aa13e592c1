//! Reading the device under a check, around what it cannot read.
//!
//! Where a read fails, its units are read one by one, so that what lies beside a bad sector is judged all the same.
//! A place that cannot be read is told once, at its own address, and not tried again.
//!
//! Invariant: at most [`PLACES_MAX`] places are kept and tried by themselves. On a device with more a failed read
//! stands for all of its bytes.

use std::collections::BTreeMap;

use super::{Checker, Code, Place};
use crate::buf::Buf;
use crate::device::{Cause, Io};
use crate::error::{Kind, Result};
use crate::units::ByteOffset;

/// The pieces in which the device is read.
pub(super) const PIECE_BYTES: u64 = 1 << 20;
/// The unit in which metadata is read where reading fails.
const UNIT_BYTES: u64 = 4096;
/// A failed read may take seconds.
const PLACES_MAX: usize = 1 << 14;

/// What the device cannot read: ranges of bytes, by where they begin. None touches another.
#[derive(Debug, Default)]
pub(super) struct Unreadable(BTreeMap<u64, u64>);

impl Unreadable {
    /// The end of the range that this byte lies in.
    pub fn end_at(&self, at: u64) -> Option<u64> {
        self.0.range(..=at).next_back().map(|(_, end)| *end).filter(|end| *end > at)
    }

    /// Where the next range begins behind this byte.
    fn next_after(&self, at: u64) -> Option<u64> {
        self.0.range(at..).next().map(|(start, _)| *start)
    }

    fn note(&mut self, start: u64, end: u64) {
        let end = self.0.remove(&end).unwrap_or(end);
        match self.0.range_mut(..start).next_back() {
            Some((_, before)) if *before == start => *before = end,
            _ => drop(self.0.insert(start, end)),
        }
    }
}

/// A part of the device in memory.
pub(super) struct Piece {
    /// Zeroes where it cannot be read.
    pub bytes: Buf,
    /// What cannot be read, in bytes of the piece, in their order.
    pub unreadable: Vec<std::ops::Range<u64>>,
}

impl Checker<'_> {
    /// `length` bytes from `address`, which lie within the device; `None` and a finding where it cannot read them.
    pub async fn read(&mut self, address: u64, length: u64) -> Result<Option<Buf>> {
        let piece = self.read_around(address, length, UNIT_BYTES).await?;
        Ok(piece.unreadable.is_empty().then_some(piece.bytes))
    }

    /// As [`Checker::read`], of any length, in memory.
    pub async fn read_all(&mut self, address: u64, length: u64) -> Result<Option<Vec<u8>>> {
        let mut all = Vec::new();
        while (all.len() as u64) < length {
            let piece = (length - all.len() as u64).min(PIECE_BYTES);
            match self.read(address + all.len() as u64, piece).await? {
                Some(buf) => all.extend_from_slice(&buf),
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    /// As [`Checker::read`], of what can be read; the rest is told in units of so many bytes.
    pub async fn read_around(&mut self, address: u64, length: u64, unit: u64) -> Result<Piece> {
        let logical = u64::from(self.device_at(address).0.geometry().logical_block_bytes);
        let (unit, room) = (unit.max(logical), length.next_multiple_of(logical));
        let end = address + room;
        let mut unreadable = Vec::new();
        let mut narrow = address;
        let known = &self.unreadable;
        if known.end_at(address).is_none() && known.next_after(address).is_none_or(|next| next >= end) {
            match self.try_read(address, room).await? {
                Ok(mut bytes) => {
                    bytes.set_len(length as usize);
                    return Ok(Piece { bytes, unreadable });
                }
                Err(text) if room <= unit || self.unreadable.0.len() >= PLACES_MAX => {
                    self.tell(address, end, &text);
                }
                Err(_) => narrow = end,
            }
        }
        let mut bytes = self.device.context().buffers().zeroed(room as usize)?;
        let mut at = address;
        while at < end {
            if let Some(known) = self.unreadable.end_at(at) {
                let known = known.min(end);
                unreadable.push(at - address..known - address);
                at = known;
                continue;
            }
            let next = self.unreadable.next_after(at).map_or(end, |next| next.min(end));
            let step = if at < narrow { unit.min(next - at) } else { next - at };
            match self.try_read(at, step).await? {
                Ok(read) => {
                    let from = (at - address) as usize;
                    bytes[from..from + step as usize].copy_from_slice(&read);
                    at += step;
                }
                Err(text) if step <= unit || self.unreadable.0.len() >= PLACES_MAX => {
                    self.tell(at, at + step, &text);
                }
                Err(_) => narrow = at + step,
            }
        }
        bytes.set_len(length as usize);
        Ok(Piece { bytes, unreadable })
    }

    fn tell(&mut self, start: u64, end: u64, text: &str) {
        self.found(Code::Unreadable, Place::at(start), format!("{} bytes: {text}", end - start));
        self.unreadable.note(start, end);
    }

    /// The bytes, or why the device cannot read them.
    async fn try_read(&self, address: u64, length: u64) -> Result<std::result::Result<Buf, String>> {
        let (device, at) = self.device_at(address);
        if at.checked_add(length).is_none_or(|end| end > device.geometry().size_bytes) {
            return Ok(Err("it lies behind the end of the device".to_string()));
        }
        let buf = self.device.context().buffers().get(length as usize)?;
        let (result, buf) = device.read(ByteOffset(at), buf, Io::of(Cause::Metadata)).await;
        match result {
            Ok(()) => Ok(Ok(buf)),
            Err(error) if error.kind() == Kind::DeviceFailed => Ok(Err(error.reason().to_string())),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_beside_each_other_are_one() {
        let mut known = Unreadable::default();
        for (start, end) in [(8, 12), (16, 20), (0, 4), (12, 16)] {
            known.note(start, end);
        }
        assert_eq!(known.0, BTreeMap::from([(0, 4), (8, 20)]));
        assert_eq!((known.end_at(3), known.end_at(4), known.end_at(19)), (Some(4), None, Some(20)));
        assert_eq!((known.next_after(4), known.next_after(20)), (Some(8), None));
    }
}
