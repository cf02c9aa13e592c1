//! Reaching a volume from other threads: a `Send` handle whose calls block.
//!
//! The calls go through a mailbox to a task on the volume's runtime, which must be running (somebody inside
//! `Runtime::block_on`). The hand-off costs tens of microseconds a call; code that cares runs on the runtime.

use std::ops::Range;
use std::pin::Pin;
use std::sync::mpsc::sync_channel;

use super::{Durability, Volume, VolumeStatus};
use crate::error::{Error, Reason, Result};
use crate::runtime::{Sender, Task, mailbox};
use crate::store::log::{LockTime, SnapshotInfo};
use crate::units::{ByteOffset, Seq};

/// Requests waiting at most; further callers wait for room.
const REQUESTS_MAX: usize = 256;

/// What is done with the volume on its own thread.
type Work = Box<dyn FnOnce(Volume) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A volume as other threads see it; may be cloned and sent. Every call blocks its thread.
#[derive(Clone, Debug)]
pub struct VolumeHandle(Sender<Work>);

impl Volume {
    /// A handle for other threads, and the task that serves it until the last handle is dropped.
    pub fn handle(&self) -> (VolumeHandle, Task<()>) {
        let (sender, mut receiver) = mailbox::<Work>(REQUESTS_MAX);
        let volume = self.clone();
        let task = self.context().spawn(async move {
            while let Some(work) = receiver.receive().await {
                volume.context().spawn(work(volume.clone()));
            }
        });
        (VolumeHandle(sender), task)
    }
}

impl VolumeHandle {
    /// Reads `length` bytes from `offset`, at any alignment.
    ///
    /// # Errors
    /// As [`Volume::read_bytes`]; `Closed` when the runtime is gone.
    pub fn read(&self, offset: ByteOffset, length: usize) -> Result<Vec<u8>> {
        self.call("read", async move |volume| {
            let mut bytes = vec![0; length];
            volume.read_bytes(offset, &mut bytes).await.map(|()| bytes)
        })
    }

    /// Writes `bytes` at `offset`, at any alignment.
    ///
    /// # Errors
    /// As [`Volume::write_bytes`]; `Closed` when the runtime is gone.
    pub fn write(&self, offset: ByteOffset, bytes: Vec<u8>, durability: Durability) -> Result<()> {
        self.call("write", async move |volume| volume.write_bytes(offset, &bytes, durability).await)
    }

    /// As [`Volume::flush`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn flush(&self) -> Result<()> {
        self.call("flush", async |volume| volume.flush().await)
    }

    /// As [`Volume::discard`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn discard(&self, offset: ByteOffset, length: u64) -> Result<()> {
        self.call("discard", async move |volume| volume.discard(offset, length).await)
    }

    /// As [`Volume::write_zeroes`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn write_zeroes(&self, offset: ByteOffset, length: u64) -> Result<()> {
        self.call("write zeroes", async move |volume| volume.write_zeroes(offset, length).await)
    }

    /// As [`Volume::status`].
    ///
    /// # Errors
    /// `Closed` when the runtime is gone.
    pub fn status(&self) -> Result<VolumeStatus> {
        self.call("status", async |volume| Ok(volume.status()))
    }

    /// As [`Volume::create_snapshot`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn create_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let name = name.to_string();
        self.call("take snapshot", async move |volume| volume.create_snapshot(&name).await)
    }

    /// As [`Volume::delete_snapshot`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        let name = name.to_string();
        self.call("delete snapshot", async move |volume| volume.delete_snapshot(&name).await)
    }

    /// As [`Volume::lock_snapshot`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn lock_snapshot(&self, name: &str, time: LockTime) -> Result<SnapshotInfo> {
        let name = name.to_string();
        self.call("lock snapshot", async move |volume| volume.lock_snapshot(&name, time).await)
    }

    /// As [`Volume::unlock_snapshot`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn unlock_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let name = name.to_string();
        self.call("unlock snapshot", async move |volume| volume.unlock_snapshot(&name).await)
    }

    /// As [`Volume::snapshots`].
    ///
    /// # Errors
    /// `Closed` when the runtime is gone.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        self.call("list snapshots", async |volume| Ok(volume.snapshots()))
    }

    /// As [`Volume::difference`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn difference(&self, one: Seq, other: Seq) -> Result<Vec<Range<u64>>> {
        self.call("compare moments", async move |volume| volume.difference(one, other).await)
    }

    /// As [`Volume::rollback`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn rollback(&self, to: Seq) -> Result<Seq> {
        self.call("roll back", async move |volume| volume.rollback(to).await)
    }

    /// As [`Volume::rollback_keeping`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn rollback_keeping(&self, to: Seq, name: &str) -> Result<Seq> {
        let name = name.to_string();
        self.call("roll back", async move |volume| volume.rollback_keeping(to, &name).await)
    }

    /// Begins something on the volume's thread, without waiting for it. False when the runtime is gone.
    pub(crate) fn start<F: Future<Output = ()> + 'static>(
        &self,
        work: impl FnOnce(Volume) -> F + Send + 'static,
    ) -> bool {
        self.0.send(Box::new(move |volume| Box::pin(work(volume)))).is_ok()
    }

    fn call<T: Send + 'static, F: Future<Output = Result<T>> + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(Volume) -> F + Send + 'static,
    ) -> Result<T> {
        let gone = || Error::new(name, Reason::Closed);
        let (reply, answer) = sync_channel(1);
        let started = self.start(move |volume| async move {
            // A caller that has gone away needs no answer.
            let _caller_gone = reply.send(work(volume).await).is_err();
        });
        if !started {
            return Err(gone());
        }
        answer.recv().map_err(|_no_answer| gone())?
    }
}
