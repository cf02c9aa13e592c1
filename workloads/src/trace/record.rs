//! One request of a trace, whatever its format.
//!
//! Invariants: `offset_bytes + len_bytes` is at most [`ADDRESS_BYTES_MAX`]; `len_bytes` is 0 for a flush alone.

use super::error::Reason;

/// The end of every address space: what a signed 64-bit offset can name.
pub const ADDRESS_BYTES_MAX: u64 = i64::MAX as u64;

pub(super) const SECTOR_BYTES: u64 = 512;
const NO_LATENCY: u64 = u64::MAX;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Tells that a range is not needed any more.
    Discard,
    /// Makes durable what was written; has neither offset nor length.
    Flush,
}

impl RecordKind {
    /// Every kind, in the order in which they are listed.
    pub const ALL: [RecordKind; 4] =
        [RecordKind::Read, RecordKind::Write, RecordKind::Discard, RecordKind::Flush];

    /// The kind's name in summaries.
    pub const fn name(self) -> &'static str {
        match self {
            RecordKind::Read => "read",
            RecordKind::Write => "write",
            RecordKind::Discard => "discard",
            RecordKind::Flush => "flush",
        }
    }
}

/// One request of a trace: 40 bytes, so that millions are cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since the trace's first record.
    pub arrival_ns: u64,
    /// First byte, in the volume's own address space.
    pub offset_bytes: u64,
    pub(super) latency_ns: u64,
    /// Length in bytes.
    pub len_bytes: u32,
    /// The volume or device; what the number means is up to the format ([`Format`](super::Format)).
    pub volume: u32,
    /// What it does.
    pub kind: RecordKind,
}

impl Record {
    /// A record without a latency. It is checked by whoever passes it on.
    pub const fn new(
        arrival_ns: u64,
        volume: u32,
        kind: RecordKind,
        offset_bytes: u64,
        len_bytes: u32,
    ) -> Self {
        Self { arrival_ns, offset_bytes, latency_ns: NO_LATENCY, len_bytes, volume, kind }
    }

    /// The same with the latency that the traced system had.
    #[must_use]
    pub const fn with_latency(self, latency_ns: Option<u64>) -> Self {
        // No system ever took 584 years; such a one counts as not known.
        let latency_ns = match latency_ns {
            Some(latency_ns) => latency_ns,
            None => NO_LATENCY,
        };
        Self { latency_ns, ..self }
    }

    /// How long it took in the traced system, where the format tells.
    pub const fn latency_ns(&self) -> Option<u64> {
        if self.latency_ns == NO_LATENCY { None } else { Some(self.latency_ns) }
    }

    /// The first byte behind it.
    pub const fn end_bytes(&self) -> u64 {
        self.offset_bytes.saturating_add(self.len_bytes as u64)
    }

    /// A record from what a format holds; `None` for a request of no length, which asks for nothing.
    pub(super) fn of(
        time_ns: u64,
        volume: u32,
        kind: RecordKind,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<Option<Self>, Reason> {
        if kind == RecordKind::Flush {
            return Ok(Some(Self::new(time_ns, volume, kind, 0, 0)));
        }
        let len = u32::try_from(len_bytes).map_err(|_| Reason("length", "4 GiB or more"))?;
        match offset_bytes.checked_add(len_bytes) {
            Some(end) if end <= ADDRESS_BYTES_MAX => {}
            _ => return Err(Reason("offset", "its end is beyond 2^63 bytes")),
        }
        Ok((len > 0).then(|| Self::new(time_ns, volume, kind, offset_bytes, len)))
    }

    /// The same, with offset and length in sectors of 512 bytes.
    pub(super) fn of_sectors(
        time_ns: u64,
        volume: u32,
        kind: RecordKind,
        sector: u64,
        sectors: u64,
    ) -> Result<Option<Self>, Reason> {
        let bytes = |sectors: u64| sectors.checked_mul(SECTOR_BYTES);
        let offset = bytes(sector).ok_or(Reason("sector", "beyond 2^63 bytes"))?;
        let len = bytes(sectors).ok_or(Reason("length", "4 GiB or more"))?;
        Self::of(time_ns, volume, kind, offset, len)
    }
}

const _: () = assert!(size_of::<Record>() == 40);
