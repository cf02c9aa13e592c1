//! Devices: the engine's only door to storage.
//!
//! A [`Device`] reads, writes, flushes, discards and zeroes byte ranges of a block device or file through its
//! runtime, counts every I/O by cause, and turns what the system says into the engine's errors. Behind it
//! stands a real device (O_DIRECT), a real device whose unflushed writes die with the process, nothing (the
//! null device), or a simulated disk. Every form passes `contract`.
//!
//! Promises: a read or write moves all of its bytes or fails; after `flush` returned, everything that had
//! completed before it was called survives losing power; a durable write survives once it has returned; after
//! `discard` and `write_zeroes` the range reads as zero.

mod cached;
mod claim;
#[cfg(any(test, feature = "sim"))]
pub mod contract;
pub mod identity;
mod ledger;
pub mod safety;
pub mod signature;
#[cfg(feature = "sim")]
pub mod simulated;
pub mod sys;
mod transfer;

use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;

use crate::buf::Buf;
use crate::error::{Error, Reason, Result};
use crate::runtime::{Context, FailureFlag, Operation, OperationKind, RangeGuard, Target};
use crate::units::ByteOffset;
use cached::Cached;
pub use claim::create_file;
pub use identity::{Geometry, Identity};
pub use ledger::{Cause, Ledger, Tally};
pub use sys::{Access, Caching};
use transfer::Transfer;

/// The pieces in which zeroes are written where the device cannot zero a range by itself.
const ZERO_PIECE_BYTES: u64 = 1 << 20;

/// Bytes that a volatile cache keeps at most, unless it is told otherwise.
pub const VOLATILE_CACHE_BYTES: usize = 64 << 20;

/// An open device; cheap to clone, bound to its runtime's thread.
#[derive(Clone, Debug)]
pub struct Device(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Context,
    name: String,
    geometry: Geometry,
    caching: Caching,
    ledger: Ledger,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Target(Target),
    Cached(Cached),
}

/// How an I/O is done.
#[derive(Clone, Debug)]
pub struct Io {
    /// Why, for the ledger.
    pub cause: Cause,
    /// Whether a write must survive losing power once it has returned.
    pub durable: bool,
    /// Held until the I/O has really ended, also when its future is dropped.
    pub guard: Option<RangeGuard>,
    /// Raised if the I/O fails, also when its future is dropped.
    pub failed: Option<FailureFlag>,
}

impl Io {
    /// A plain I/O of this cause.
    pub fn of(cause: Cause) -> Self {
        Self { cause, durable: false, guard: None, failed: None }
    }

    /// A durable write of this cause.
    pub fn durable(cause: Cause) -> Self {
        Self { durable: true, ..Self::of(cause) }
    }
}

impl Device {
    /// Opens a block device or file.
    ///
    /// # Errors
    /// `AlreadyOpen` where `access` is exclusive and somebody has it, `NoDirectIo` where the file system has
    /// none and `caching` asks for it, `NotFound`, `NotABlockDevice`, `PermissionDenied`.
    pub fn open(context: &Context, path: &Path, access: Access, caching: Caching) -> Result<Self> {
        let sys::Opened { fd, claim } = sys::open(path, access, caching)?;
        let name = path.display().to_string();
        let geometry = Geometry::read(fd.as_fd()).map_err(|error| error.on(name.clone()))?;
        let target = Target::File(context.adopt_file(fd, claim));
        Ok(Self::assemble(context, name, geometry, caching, Backing::Target(target)))
    }

    /// A device of `size_bytes` that does nothing, for measuring what the caller costs by itself.
    pub fn null(context: &Context, size_bytes: u64) -> Self {
        let geometry = Geometry {
            size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            optimal_io_bytes: 0,
            rotational: false,
            discard: true,
            write_cache: false,
        };
        Self::assemble(context, "null".to_string(), geometry, Caching::Direct, Backing::Target(Target::Null))
    }

    /// This real device with a volatile write cache in the process's memory, so that killing the process
    /// loses what was not flushed, as a power cut would.
    pub fn with_volatile_cache(self) -> Self {
        self.with_volatile_cache_of(VOLATILE_CACHE_BYTES)
    }

    /// As [`Device::with_volatile_cache`], with another limit: at most so many bytes are kept, and what the requests
    /// under way carry. Beyond it a write first brings what is kept to the device, without a flush.
    pub fn with_volatile_cache_of(self, dirty_bytes_max: usize) -> Self {
        let (context, name, geometry) = (self.0.context.clone(), self.0.name.clone(), self.0.geometry);
        let geometry = Geometry { write_cache: true, ..geometry };
        let caching = self.0.caching;
        Self::assemble(&context, name, geometry, caching, Backing::Cached(Cached::new(self, dirty_bytes_max)))
    }

    #[cfg(feature = "sim")]
    pub(crate) fn simulated(context: &Context, name: String, geometry: Geometry, target: Target) -> Self {
        Self::assemble(context, name, geometry, Caching::Direct, Backing::Target(target))
    }

    fn assemble(
        context: &Context,
        name: String,
        geometry: Geometry,
        caching: Caching,
        backing: Backing,
    ) -> Self {
        let ledger = Ledger::default();
        Self(Rc::new(Inner { context: context.clone(), name, geometry, caching, ledger, backing }))
    }

    /// The path or the simulated disk's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sizes and abilities.
    pub fn geometry(&self) -> &Geometry {
        &self.0.geometry
    }

    /// Whether the page cache is passed by.
    pub fn caching(&self) -> Caching {
        self.0.caching
    }

    /// I/Os and bytes by cause.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// The runtime this device belongs to.
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// Fills `buf` from `offset`, beginning at once. The buffer comes back with the outcome; after an error its
    /// contents are unspecified.
    ///
    /// # Errors
    /// `Misaligned` or `OutOfRange` without any I/O, `ShortTransfer`, `DeviceGone`, `Os`.
    #[inline]
    pub fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> impl Future<Output = (Result<()>, Buf)> {
        Transfer::begin(&self.0, OperationKind::Read, offset, buf, io)
    }

    /// Writes `buf` at `offset`, beginning at once; dropping the future does not take the write back.
    ///
    /// # Errors
    /// As [`Device::read`]; after an error each sector of the range holds its old or its new bytes.
    #[inline]
    pub fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> impl Future<Output = (Result<()>, Buf)> {
        Transfer::begin(&self.0, OperationKind::Write { durable: io.durable }, offset, buf, io)
    }

    /// Makes everything that completed before this call durable.
    ///
    /// # Errors
    /// Any error means that what was written since the last successful flush may be lost.
    pub async fn flush(&self, io: Io) -> Result<()> {
        if let Backing::Cached(cached) = &self.0.backing {
            Box::pin(cached.flush(&io)).await?;
        } else {
            self.operate("flush", OperationKind::Flush, ByteOffset(0), 0, &io).await?;
        }
        self.0.ledger.note_flush(io.cause);
        Ok(())
    }

    /// Gives the range's space back where the device can; it reads as zero afterwards either way.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.zero("discard", OperationKind::Discard, offset, length, io).await
    }

    /// Makes the range read as zero, keeping its space.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.zero("write zeroes", OperationKind::WriteZeroes, offset, length, io).await
    }

    async fn zero(
        &self,
        name: &'static str,
        kind: OperationKind,
        offset: ByteOffset,
        length: u64,
        io: Io,
    ) -> Result<()> {
        self.0.check(name, offset, length)?;
        if length == 0 {
            return Ok(());
        }
        if let Backing::Cached(cached) = &self.0.backing {
            Box::pin(cached.zero(kind, offset, length, &io)).await?;
        } else {
            match self.operate(name, kind, offset, length, &io).await {
                Err(error) if unsupported(&error) => self.zero_by_writing(offset, length, &io).await?,
                done => done?,
            }
        }
        self.0.ledger.note_zeroing(io.cause, length);
        Ok(())
    }

    async fn zero_by_writing(&self, offset: ByteOffset, length: u64, io: &Io) -> Result<()> {
        let mut buf = self.0.context.buffers().zeroed(length.min(ZERO_PIECE_BYTES) as usize)?;
        let mut done = 0;
        while done < length {
            buf.set_len((length - done).min(ZERO_PIECE_BYTES) as usize);
            let (result, back) = self.write(ByteOffset(offset.0 + done), buf, io.clone()).await;
            result?;
            buf = back;
            done += buf.len() as u64;
        }
        Ok(())
    }

    /// An operation without a buffer.
    async fn operate(
        &self,
        name: &'static str,
        kind: OperationKind,
        offset: ByteOffset,
        length: u64,
        io: &Io,
    ) -> Result<()> {
        let Backing::Target(target) = &self.0.backing else {
            unreachable!("a cached device works through the device under it")
        };
        // An unsupported discard is no failure: zeroes are written instead.
        let may_fail = matches!(kind, OperationKind::Discard | OperationKind::WriteZeroes);
        let operation = Operation {
            kind,
            target: target.clone(),
            offset: offset.0,
            length,
            guard: io.guard.clone(),
            failed: if may_fail { None } else { io.failed.clone() },
        };
        let (result, _no_buffer) = self.0.context.operate(operation, None).await;
        self.0.outcome(name, offset, 0, result)
    }
}

impl Inner {
    fn check(&self, name: &'static str, offset: ByteOffset, length: u64) -> Result<()> {
        let granularity = u64::from(self.geometry.logical_block_bytes);
        let size_bytes = self.geometry.size_bytes;
        let reason = if (offset.0 | length) & (granularity - 1) != 0 {
            Reason::Misaligned { offset: offset.0, length, granularity }
        } else if offset.checked_add(length).is_none_or(|end| end.0 > size_bytes) {
            Reason::OutOfRange { offset: offset.0, length, size_bytes }
        } else {
            return Ok(());
        };
        Err(Error::new(name, reason).on(self.name.as_str()))
    }

    fn outcome(
        &self,
        name: &'static str,
        offset: ByteOffset,
        asked: u64,
        result: std::result::Result<u64, i32>,
    ) -> Result<()> {
        let error = match result {
            Ok(done) if done >= asked => return Ok(()),
            Ok(done) => Error::new(name, Reason::ShortTransfer { asked, done }),
            Err(errno) => Error::from_errno(name, errno),
        };
        Err(error.on(self.name.as_str()).at(offset.0))
    }
}

fn unsupported(error: &Error) -> bool {
    matches!(error.reason(), Reason::Os { errno: libc::EOPNOTSUPP | libc::ENOSYS })
}
