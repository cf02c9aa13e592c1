//! Numbered flushes of one device: whoever has written something asks for the next number, and that flush, or a later
//! one, makes it durable, whoever began it.
//!
//! Place: under `append`, one for the log's own device, and one for that of data which the log only tells of, where that
//! lies elsewhere.
//! Invariant: a number counts only when a flush that began as it has ended well.

use std::cell::Cell;

use crate::device::{Cause, Device, Io};
use crate::error::Result;
use crate::runtime::{FailureFlag, RangeGuard, RangeLock};

/// The flushes of a device.
#[derive(Debug)]
pub struct Flushes {
    device: Device,
    /// Held by who waits for a flush rather than begin another.
    turn: RangeLock,
    /// Those that have begun, and the last of them that has ended well.
    begun: Cell<u64>,
    ended: Cell<u64>,
    failed: FailureFlag,
}

impl Flushes {
    /// Those of a device; `failed` is raised when one fails.
    pub fn new(device: &Device, failed: FailureFlag) -> Self {
        let (begun, ended) = (Cell::new(0), Cell::new(0));
        Self { device: device.clone(), turn: RangeLock::default(), begun, ended, failed }
    }

    /// Whoever comes while a flush is under way waits here.
    pub async fn turn(&self) -> RangeGuard {
        self.turn.lock(0, 1).await
    }

    /// The number of the next flush: after it, everything that has completed on this device by now survives.
    pub fn next(&self) -> u64 {
        self.begun.get() + 1
    }

    /// Flushes the device.
    ///
    /// # Errors
    /// What the device says.
    pub async fn flush(&self) -> Result<()> {
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::LogAckBeforeFlush) {
            return Ok(());
        }
        let number = self.next();
        self.begun.set(number);
        self.device.flush(Io { failed: Some(self.failed.clone()), ..Io::of(Cause::Log) }).await?;
        self.ended.set(self.ended.get().max(number));
        Ok(())
    }

    /// Waits until a flush of this number, or a later one, has ended; begins one where none is under way.
    ///
    /// # Errors
    /// What the device says.
    pub async fn through(&self, number: u64) -> Result<()> {
        if self.ended.get() < number {
            let _turn = self.turn().await;
            if self.ended.get() < number {
                self.flush().await?;
            }
        }
        Ok(())
    }
}
