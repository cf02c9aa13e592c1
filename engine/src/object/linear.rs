//! A linear object: every block of the volume has its place, one behind the other, in one area of a device.
//!
//! Invariants: nothing but the volume's blocks is in the area; what has completed here is durable after a flush that
//! began later.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;

use crate::buf::Buf;
use crate::device::{Device, Io};
use crate::error::Result;
use crate::format::superblock::Area;
use crate::units::ByteOffset;

/// An area with a place for every block.
#[derive(Debug)]
pub struct Linear {
    device: Device,
    offset: u64,
    /// Writes that have completed, and how many of them are known to be durable.
    completed: Cell<u64>,
    durable: Cell<u64>,
}

impl Linear {
    /// The object in this area of a device.
    pub fn new(device: &Device, area: Area) -> Self {
        let (completed, durable) = (Cell::new(0), Cell::new(0));
        Self { device: device.clone(), offset: area.offset.get(), completed, durable }
    }

    /// The same, where the device may have something in its cache that an opening before has left there: a flush has
    /// something to do.
    pub fn with_leftovers(self) -> Self {
        self.completed.set(1);
        self
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The device address of a byte of the volume.
    pub fn place(&self, offset: ByteOffset) -> ByteOffset {
        ByteOffset(self.offset + offset.0)
    }

    /// Fills `buf` from `offset`.
    pub fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> impl Future<Output = (Result<()>, Buf)> {
        self.device.read(self.place(offset), buf, io)
    }

    /// Writes `buf` at `offset`, beginning at once, as [`Device::write`] does.
    pub fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> impl Future<Output = (Result<()>, Buf)> {
        let mut writing = self.device.write(self.place(offset), buf, io);
        // Not an async function, whose future would keep what it was called with beside what it waits for.
        poll_fn(move |context| {
            let written = Pin::new(&mut writing).poll(context);
            if written.is_ready() {
                self.completed.set(self.completed.get() + 1);
            }
            written
        })
    }

    /// Makes what has completed durable.
    ///
    /// # Errors
    /// What the device says.
    pub async fn flush(&self, io: Io) -> Result<()> {
        let completed = self.completed.get();
        self.device.flush(io).await?;
        self.durable.set(self.durable.get().max(completed));
        Ok(())
    }

    /// Whether a flush has something to do: a write, whole or not, has completed since the last one began.
    pub fn is_dirty(&self) -> bool {
        self.durable.get() < self.completed.get()
    }

    /// Makes a range read as zero, giving its space back where the device can.
    ///
    /// # Errors
    /// What the device says.
    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        let done = self.device.discard(self.place(offset), length, io).await;
        self.completed.set(self.completed.get() + 1);
        done
    }

    /// Makes a range read as zero, keeping its space.
    ///
    /// # Errors
    /// What the device says.
    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        let done = self.device.write_zeroes(self.place(offset), length, io).await;
        self.completed.set(self.completed.get() + 1);
        done
    }
}
