//! One operation: the common coin of generators, trace readers and arms.
//!
//! Invariant: `offset_bytes + len_bytes` never exceeds the span the operation was drawn for.

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// Reads `len_bytes`.
    Read,
    /// Writes `len_bytes`.
    Write,
}

/// One request of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    /// Read or write.
    pub kind: OperationKind,
    /// First byte, counted from the start of the data span (not of the device).
    pub offset_bytes: u64,
    /// Length in bytes; never 0.
    pub len_bytes: u32,
    /// The writer waits until this write is durable. How (flush, FUA, a durable write of the engine) is up to
    /// the arm and to the workload's [`Durability`](crate::Durability).
    pub durable: bool,
}
