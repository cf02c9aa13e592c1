//! Backends: the ways of keeping a volume, one folder each.
//!
//! A store sees whole blocks only: `Volume` merges smaller writes and orders overlapping ones before they come
//! here.

mod cow;
mod direct;
pub mod log;
mod logged_cow;
mod overlay;

use crate::buf::Buf;
use crate::device::{Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::superblock::Superblock;
use crate::object::linear::Linear;
use crate::runtime::{FailureFlag, RangeGuard};
use crate::units::{ByteOffset, Seq};
use cow::Cow;
use log::{Access, Apart, LogStore, OpenOptions};
use logged_cow::LoggedCow;
use overlay::Overlay;

/// Which way of keeping a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// Every block in its place, no log, no past.
    Direct,
    /// Every write once, in the order of arrival; any moment of a window can be opened.
    Log,
    /// A log in front, and every block in its place behind it.
    Linear,
    /// Every block in its place; what a snapshot sees is copied before it is overwritten.
    Cow,
    /// Every block in its place until a snapshot sees it; changes go elsewhere from then on.
    Overlay,
    /// A log in front, and every block in its place behind it; what a snapshot sees there is copied before what comes
    /// out of the log overwrites it.
    LoggedCow,
}

impl Backend {
    /// All backends of this build.
    pub const ALL: [Backend; 6] =
        [Backend::Direct, Backend::Log, Backend::Linear, Backend::Cow, Backend::Overlay, Backend::LoggedCow];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Direct => "direct",
            Backend::Log => "log",
            Backend::Linear => "linear",
            Backend::Cow => "cow",
            Backend::Overlay => "overlay",
            Backend::LoggedCow => "logged-cow",
        }
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// `InvalidSetting` listing the names.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name).ok_or_else(|| {
            let value = name.to_string();
            let reason = Reason::InvalidSetting {
                name: "backend",
                value,
                rule: "this build has: direct, log, linear, cow, overlay, logged-cow",
            };
            Error::new("create", reason)
        })
    }

    /// Whether every block has its place in an area of its own, beside the segments of a log.
    pub fn has_base(self) -> bool {
        matches!(self, Backend::Cow | Backend::Overlay | Backend::LoggedCow)
    }

    /// The number that stands for it in a superblock.
    pub(crate) fn number(self) -> u32 {
        match self {
            Backend::Direct => 1,
            Backend::Log => 2,
            Backend::Linear => 3,
            Backend::Cow => 4,
            Backend::Overlay => 5,
            Backend::LoggedCow => 6,
        }
    }

    /// The backend with this number in a superblock.
    pub(crate) fn from_number(number: u32) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|backend| backend.number() == number)
            .ok_or_else(|| Error::new("open", Reason::UnknownBackend { found: number }))
    }
}

/// A base whose log is lost.
#[derive(Debug)]
pub(crate) struct Alone {
    pub base: Linear,
    /// The recipe that it was part of.
    pub backend: Backend,
    /// The identity of the log's device.
    pub log_id: String,
}

/// An open store.
#[derive(Debug)]
pub(crate) enum Store {
    Direct(Linear),
    Log(LogStore),
    Cow(Cow),
    Overlay(Overlay),
    LoggedCow(LoggedCow),
    Alone(Alone),
}

impl Store {
    pub async fn open(
        device: &Device,
        superblock: &Superblock,
        access: Access,
        options: OpenOptions,
        apart: Apart,
        failed: FailureFlag,
    ) -> Result<Self> {
        let backend = Backend::from_number(superblock.backend.get())?;
        if backend == Backend::Direct {
            return Ok(Self::Direct(direct::open(device, superblock, options.volatile_log_bytes)));
        }
        let log = LogStore::open(device, superblock, access, options, apart, failed).await?;
        Ok(match backend {
            Backend::Cow => Self::Cow(Cow::open(log).await?),
            Backend::Overlay => Self::Overlay(Overlay { layers: log }),
            Backend::LoggedCow => Self::LoggedCow(LoggedCow { log }),
            _ => Self::Log(log),
        })
    }

    pub fn backend(&self) -> Backend {
        match self {
            Self::Direct(_) => Backend::Direct,
            Self::Log(log) => log.backend(),
            Self::Cow(_) => Backend::Cow,
            Self::Overlay(_) => Backend::Overlay,
            Self::LoggedCow(_) => Backend::LoggedCow,
            Self::Alone(alone) => alone.backend,
        }
    }

    /// What it takes as it is, of a volume with blocks of this size. `direct` has neither a map nor checksums of blocks, so that
    /// a part of one is merged only where the device's own blocks are larger.
    pub fn whole_bytes(&self, block_bytes: u32) -> u32 {
        match self {
            Self::Direct(direct) => block_bytes.min(direct.device().geometry().logical_block_bytes),
            _ => block_bytes,
        }
    }

    /// The log store, for what only that one can do.
    pub fn log(&self) -> Result<&LogStore> {
        match self {
            Self::Log(log) => Ok(log),
            Self::Cow(cow) => Ok(&cow.past),
            Self::Overlay(overlay) => Ok(&overlay.layers),
            Self::LoggedCow(logged) => Ok(&logged.log),
            Self::Alone(alone) => {
                let reason = Reason::DeviceMissing { role: "log", id: alone.log_id.clone() };
                Err(Error::new("open the past", reason).on(alone.base.device().name()))
            }
            other => Err(Error::new("open the past", Reason::NoPast { backend: other.backend().name() })),
        }
    }

    /// Refuses a moment that cannot be gone back to.
    pub fn check_rollback(&self, to: Seq) -> Result<()> {
        match self {
            Self::Cow(cow) => cow.check_rollback(to),
            other => other.log()?.check_rollback(to),
        }
    }

    /// Goes back to a moment; `guard` holds the whole volume. The sequence that it has then.
    pub async fn rollback(&self, to: Seq, guard: RangeGuard) -> Result<Seq> {
        match self {
            Self::Cow(cow) => cow.rollback(to, guard).await,
            other => other.log()?.rollback(to, guard).await,
        }
    }

    /// Before a moment of now is kept: what is current is in its place.
    pub async fn finish_rollback(&self) -> Result<()> {
        match self {
            Self::Cow(cow) => cow.finish_rollback().await,
            _ => Ok(()),
        }
    }

    /// The moment that is read in place of now, where a return has been cut short.
    pub fn shown(&self) -> Option<Seq> {
        match self {
            Self::Cow(cow) => cow.shown().map(|image| image.sequence()),
            _ => None,
        }
    }

    /// Brings everything into the state in which it opens without recovery. What completed before is flushed.
    pub async fn close(&self, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.flush(io).await,
            Self::Log(log) => log.close().await,
            Self::Cow(cow) => cow.close(io).await,
            Self::Overlay(overlay) => overlay.close(io).await,
            Self::LoggedCow(logged) => logged.log.close().await,
            Self::Alone(alone) => alone.base.flush(io).await,
        }
    }

    pub async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        match self {
            Self::Direct(direct) => direct.read(offset, buf, io).await,
            Self::Log(log) => log.read(offset, buf, io).await,
            Self::Cow(cow) => cow.read(offset, buf, io).await,
            Self::Overlay(overlay) => overlay.read(offset, buf, io).await,
            Self::LoggedCow(logged) => logged.log.read(offset, buf, io).await,
            Self::Alone(alone) => alone.base.read(offset, buf, io).await,
        }
    }

    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        match self {
            Self::Direct(direct) => direct.write(offset, buf, io).await,
            Self::Log(log) => {
                let blocks = buf.len() as u64 / log.block_bytes();
                let done = log.write(offset, buf, io).await;
                log.slow_down(blocks).await;
                done
            }
            Self::Cow(cow) => cow.write(offset, buf, io).await,
            Self::Overlay(overlay) => overlay.write(offset, buf, io).await,
            Self::LoggedCow(logged) => logged.write(offset, buf, io).await,
            Self::Alone(alone) => alone.base.write(offset, buf, io).await,
        }
    }

    pub async fn flush(&self, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.flush(io).await,
            Self::Log(log) => log.flush().await,
            Self::Cow(cow) => cow.flush(io).await,
            Self::Overlay(overlay) => overlay.flush(io).await,
            Self::LoggedCow(logged) => logged.log.flush().await,
            Self::Alone(alone) => alone.base.flush(io).await,
        }
    }

    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.discard(offset, length, io).await,
            Self::Log(log) => log.discard(offset, length, io).await,
            Self::Cow(cow) => cow.discard(offset, length, io).await,
            Self::Overlay(overlay) => overlay.discard(offset, length, io).await,
            Self::LoggedCow(logged) => logged.log.discard(offset, length, io).await,
            Self::Alone(alone) => alone.base.discard(offset, length, io).await,
        }
    }

    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.write_zeroes(offset, length, io).await,
            Self::Log(log) => log.write_zeroes(offset, length, io).await,
            Self::Cow(cow) => cow.write_zeroes(offset, length, io).await,
            Self::Overlay(overlay) => overlay.write_zeroes(offset, length, io).await,
            Self::LoggedCow(logged) => logged.log.write_zeroes(offset, length, io).await,
            Self::Alone(alone) => alone.base.write_zeroes(offset, length, io).await,
        }
    }
}
