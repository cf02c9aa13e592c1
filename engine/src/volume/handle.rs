//! Reaching a volume from other threads: a `Send` handle whose calls block.
//!
//! The calls go through a mailbox to a task on the volume's runtime, which must be running (somebody inside
//! `Runtime::block_on`). The hand-off costs tens of microseconds a call; code that cares runs on the runtime.

use std::sync::mpsc::{SyncSender, sync_channel};

use super::{Durability, Volume, VolumeStatus};
use crate::error::{Error, Reason, Result};
use crate::runtime::{Sender, Task, mailbox};
use crate::units::ByteOffset;

/// Requests waiting at most; further callers wait for room.
const REQUESTS_MAX: usize = 256;

enum Request {
    Read(ByteOffset, usize, SyncSender<Result<Vec<u8>>>),
    Write(ByteOffset, Vec<u8>, Durability, SyncSender<Result<()>>),
    Flush(SyncSender<Result<()>>),
    Discard(ByteOffset, u64, SyncSender<Result<()>>),
    WriteZeroes(ByteOffset, u64, SyncSender<Result<()>>),
    Status(SyncSender<Result<VolumeStatus>>),
}

/// A volume as other threads see it; may be cloned and sent. Every call blocks its thread.
#[derive(Clone, Debug)]
pub struct VolumeHandle(Sender<Request>);

impl Volume {
    /// A handle for other threads, and the task that serves it until the last handle is dropped.
    pub fn handle(&self) -> (VolumeHandle, Task<()>) {
        let (sender, mut receiver) = mailbox(REQUESTS_MAX);
        let volume = self.clone();
        let task = self.context().spawn(async move {
            while let Some(request) = receiver.receive().await {
                let serving = volume.clone();
                volume.context().spawn(async move { serving.serve(request).await });
            }
        });
        (VolumeHandle(sender), task)
    }

    async fn serve(&self, request: Request) {
        // A caller that has gone away needs no answer.
        let _caller_gone = match request {
            Request::Read(offset, length, reply) => {
                let mut bytes = vec![0; length];
                let result = self.read_bytes(offset, &mut bytes).await;
                reply.send(result.map(|()| bytes)).is_err()
            }
            Request::Write(offset, bytes, durability, reply) => {
                reply.send(self.write_bytes(offset, &bytes, durability).await).is_err()
            }
            Request::Flush(reply) => reply.send(self.flush().await).is_err(),
            Request::Discard(offset, length, reply) => {
                reply.send(self.discard(offset, length).await).is_err()
            }
            Request::WriteZeroes(offset, length, reply) => {
                reply.send(self.write_zeroes(offset, length).await).is_err()
            }
            Request::Status(reply) => reply.send(Ok(self.status())).is_err(),
        };
    }
}

impl VolumeHandle {
    /// Reads `length` bytes from `offset`, at any alignment.
    ///
    /// # Errors
    /// As [`Volume::read_bytes`]; `Closed` when the runtime is gone.
    pub fn read(&self, offset: ByteOffset, length: usize) -> Result<Vec<u8>> {
        self.call("read", |reply| Request::Read(offset, length, reply))
    }

    /// Writes `bytes` at `offset`, at any alignment.
    ///
    /// # Errors
    /// As [`Volume::write_bytes`]; `Closed` when the runtime is gone.
    pub fn write(&self, offset: ByteOffset, bytes: Vec<u8>, durability: Durability) -> Result<()> {
        self.call("write", |reply| Request::Write(offset, bytes, durability, reply))
    }

    /// As [`Volume::flush`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn flush(&self) -> Result<()> {
        self.call("flush", Request::Flush)
    }

    /// As [`Volume::discard`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn discard(&self, offset: ByteOffset, length: u64) -> Result<()> {
        self.call("discard", |reply| Request::Discard(offset, length, reply))
    }

    /// As [`Volume::write_zeroes`].
    ///
    /// # Errors
    /// As there; `Closed` when the runtime is gone.
    pub fn write_zeroes(&self, offset: ByteOffset, length: u64) -> Result<()> {
        self.call("write zeroes", |reply| Request::WriteZeroes(offset, length, reply))
    }

    /// As [`Volume::status`].
    ///
    /// # Errors
    /// `Closed` when the runtime is gone.
    pub fn status(&self) -> Result<VolumeStatus> {
        self.call("status", Request::Status)
    }

    fn call<T>(
        &self,
        name: &'static str,
        request: impl FnOnce(SyncSender<Result<T>>) -> Request,
    ) -> Result<T> {
        let gone = || Error::new(name, Reason::Closed);
        let (reply, answer) = sync_channel(1);
        self.0.send(request(reply)).map_err(|_unsent| gone())?;
        answer.recv().map_err(|_no_answer| gone())?
    }
}
