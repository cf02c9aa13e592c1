//! Backends: the ways of keeping a volume, one folder each.
//!
//! A store sees whole blocks only: `Volume` merges smaller writes and orders overlapping ones before they come
//! here.

pub mod direct;

use crate::buf::Buf;
use crate::device::{Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::superblock::Superblock;
use crate::units::ByteOffset;
use direct::Direct;

/// Which way of keeping a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// Every block in its place, no log, no past.
    Direct,
}

impl Backend {
    /// All backends of this build.
    pub const ALL: [Backend; 1] = [Backend::Direct];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Direct => "direct",
        }
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// `InvalidSetting` listing the names.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name).ok_or_else(|| {
            let value = name.to_string();
            let reason = Reason::InvalidSetting { name: "backend", value, rule: "this build has: direct" };
            Error::new("create", reason)
        })
    }

    /// The number that stands for it in a superblock.
    pub(crate) fn number(self) -> u32 {
        match self {
            Backend::Direct => 1,
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
}

impl Store {
    pub fn open(device: &Device, superblock: &Superblock) -> Result<Self> {
        match Backend::from_number(superblock.backend.get())? {
            Backend::Direct => Ok(Self::Direct(Direct::open(device, superblock))),
        }
    }

    pub async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        match self {
            Self::Direct(direct) => direct.read(offset, buf, io).await,
        }
    }

    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        match self {
            Self::Direct(direct) => direct.write(offset, buf, io).await,
        }
    }

    pub async fn flush(&self, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.flush(io).await,
        }
    }

    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.discard(offset, length, io).await,
        }
    }

    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        match self {
            Self::Direct(direct) => direct.write_zeroes(offset, length, io).await,
        }
    }
}
