//! Backends: the ways of keeping a volume, one folder each.
//!
//! A store sees whole blocks only: `Volume` merges smaller writes and orders overlapping ones before they come
//! here.

pub mod direct;
pub mod log;

use crate::buf::Buf;
use crate::device::{Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::superblock::Superblock;
use crate::runtime::FailureFlag;
use crate::units::ByteOffset;
use direct::Direct;
use log::{Access, HomeDevice, LogStore, OpenOptions};

/// Which way of keeping a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// Every block in its place, no log, no past.
    Direct,
    /// Every write once, in the order of arrival; any moment of a window can be opened.
    Log,
    /// A log in front, and every block in its place behind it.
    Linear,
}

impl Backend {
    /// All backends of this build.
    pub const ALL: [Backend; 3] = [Backend::Direct, Backend::Log, Backend::Linear];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Direct => "direct",
            Backend::Log => "log",
            Backend::Linear => "linear",
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
                rule: "this build has: direct, log, linear",
            };
            Error::new("create", reason)
        })
    }

    /// The number that stands for it in a superblock.
    pub(crate) fn number(self) -> u32 {
        match self {
            Backend::Direct => 1,
            Backend::Log => 2,
            Backend::Linear => 3,
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

/// An open store.
#[derive(Debug)]
pub(crate) enum Store {
    Direct(Direct),
    Log(LogStore),
}

impl Store {
    pub async fn open(
        device: &Device,
        superblock: &Superblock,
        access: Access,
        options: OpenOptions,
        home: Option<HomeDevice>,
        failed: FailureFlag,
    ) -> Result<Self> {
        match Backend::from_number(superblock.backend.get())? {
            Backend::Direct => Ok(Self::Direct(Direct::open(device, superblock, options.volatile_log_bytes))),
            Backend::Log | Backend::Linear => {
                Ok(Self::Log(LogStore::open(device, superblock, access, options, home, failed).await?))
            }
        }
    }

    pub fn backend(&self) -> Backend {
        match self {
            Self::Direct(_) => Backend::Direct,
            Self::Log(log) => log.backend(),
        }
    }

    /// The log store, for what only that one can do.
    pub fn log(&self) -> Result<&LogStore> {
        match self {
            Self::Log(log) => Ok(log),
            other => Err(Error::new("open the past", Reason::NoPast { backend: other.backend().name() })),
        }
    }

    /// Brings everything into the state in which it opens without recovery. What completed before is flushed.
    pub async fn close(&self, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.flush(io).await,
            Self::Log(log) => log.close().await,
        }
    }

    pub async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        match self {
            Self::Direct(direct) => direct.read(offset, buf, io).await,
            Self::Log(log) => log.read(offset, buf, io).await,
        }
    }

    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        match self {
            Self::Direct(direct) => direct.write(offset, buf, io).await,
            Self::Log(log) => log.write(offset, buf, io).await,
        }
    }

    pub async fn flush(&self, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.flush(io).await,
            Self::Log(log) => log.flush().await,
        }
    }

    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.discard(offset, length, io).await,
            Self::Log(log) => log.discard(offset, length, io).await,
        }
    }

    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.write_zeroes(offset, length, io).await,
            Self::Log(log) => log.write_zeroes(offset, length, io).await,
        }
    }
}
