//! The past: images of any moment in the window, with entries left out on request, and lists of versions.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::{Core, LogStore};
use crate::buf::Buf;
use crate::device::Cause;
use crate::error::{Error, Reason, Result};
use crate::format::index_page::IndexEntry;
use crate::pool::contents::Pin;
use crate::pool::history::Line;
use crate::pool::index::current::Version;
use crate::pool::index::run::Run;
use crate::runtime::RangeGuard;
use crate::store::Backend;
use crate::units::{ByteOffset, Seq};

/// Which image is asked for.
#[derive(Clone, Debug, Default)]
pub struct ImageOptions {
    /// Up to this sequence; the current one if not given.
    pub sequence: Option<Seq>,
    /// Entries that the image is made without.
    pub without: BTreeSet<Seq>,
}

/// One version of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    /// The sequence at which it became the block's content; 0 for what the block was before it was written.
    pub sequence: Seq,
    /// CRC-32C of the block; 0 for zeroes, and for what lies in the base of the volume.
    pub checksum: u32,
    /// Whether it reads as zero.
    pub zero: bool,
}

/// A read-only image of a moment. It stays what it is while the volume is written.
#[derive(Debug)]
pub struct Image {
    core: Rc<Core>,
    line: Line,
    sequence: u64,
    without: BTreeSet<Seq>,
    _pins: Vec<Pin>,
}

impl LogStore {
    /// Opens an image. `guard`: what keeps writers out until its moment is pinned.
    pub async fn image(&self, options: ImageOptions, guard: Option<RangeGuard>) -> Result<Image> {
        let core = &self.core;
        let last = core.sequence();
        let sequence = options.sequence.map_or(last, |sequence| sequence.0);
        let earliest = core.contents.window();
        let unknown = |moment| {
            Err(Error::new("open image", Reason::UnknownMoment { moment, last }).on(core.device.name()))
        };
        if sequence > last {
            return unknown(sequence);
        }
        if let Some(missing) = options.without.iter().find(|entry| entry.0 == 0 || entry.0 > last) {
            return unknown(missing.0);
        }
        // Without an entry, what it superseded must still be there.
        let needed = options.without.first().map_or(sequence, |first| sequence.min(first.0 - 1));
        let is_named = options.without.is_empty() && core.contents.can_open(sequence);
        // Without the copies behind the damage, the base would be taken for what it was.
        if let Some(good_through) = core.report.damaged_after
            && core.backend == Backend::Cow
            && core.log.is_none()
        {
            return Err(Error::new("open image", Reason::LogDamaged { good_through }).on(core.device.name()));
        }
        if needed < earliest && self.is_broken(sequence) {
            let reason = Reason::SnapshotBroken { moment: sequence };
            return Err(Error::new("open image", reason).on(core.device.name()));
        }
        if needed < earliest && !is_named {
            let reason = Reason::Expired { moment: needed, earliest };
            return Err(Error::new("open image", reason).on(core.device.name()));
        }
        let before = options.without.iter().map(|entry| entry.0 - 1).filter(|moment| *moment <= sequence);
        let pins = before.chain([sequence]).map(|moment| core.contents.pin(moment)).collect();
        drop(guard);
        // What the image shows is then in runs, and the pins keep it in those that they are merged to.
        if core.log.is_some() {
            core.checkpoint().await?;
        }
        let line = core.contents.index().history().line(sequence);
        Ok(Image { core: Rc::clone(core), line, sequence, without: options.without, _pins: pins })
    }

    /// The versions of a block that can still be read, oldest first.
    pub async fn versions(&self, offset: ByteOffset) -> Result<Vec<VersionInfo>> {
        let contents = &self.core.contents;
        let lba = offset.0 / u64::from(self.core.geometry.block_bytes);
        let wanted = contents.wanted();
        let all = contents.index().versions(lba).await?;
        // What was saved of the base may be as old as the volume.
        let blank =
            Some(contents.index().blank()).filter(|_| all.first().is_none_or(|first| first.sequence > 0));
        let all = blank.into_iter().chain(all.iter().map(Version::of));
        let info = |version: Version| VersionInfo {
            sequence: Seq(version.birth),
            checksum: version.checksum,
            zero: version.is_zero(),
        };
        let mut versions: Vec<VersionInfo> = all.map(info).collect();
        let births: Vec<u64> = versions.iter().map(|version| version.sequence.0).collect();
        let history = contents.index().history();
        let mut at = 0;
        versions.retain(|version| {
            at += 1;
            let death = history.death(version.sequence.0, &births[at..]);
            death.is_none_or(|death| wanted.sees(version.sequence.0, death))
        });
        Ok(versions)
    }
}

impl Image {
    /// The moment that it shows.
    pub fn sequence(&self) -> Seq {
        Seq(self.sequence)
    }

    async fn version(&self, runs: &[Rc<Run>], lba: u64) -> Result<Version> {
        let index = self.core.contents.index();
        if self.core.log.is_none() {
            // Opened for reading: the log's tail is in no run, and nothing changes.
            let all = index.versions(lba).await?;
            let shown = |entry: &&IndexEntry| {
                let sequence = entry.sequence.get();
                self.line.sees(sequence) && !self.without.contains(&Seq(sequence))
            };
            return Ok(all.iter().rev().find(shown).map_or(index.blank(), Version::of));
        }
        let mut sequence = self.sequence;
        loop {
            match index.find(runs, &self.line, lba, sequence).await? {
                None => return Ok(index.blank()),
                Some(entry) if self.without.contains(&Seq(entry.sequence.get())) => {
                    sequence = entry.sequence.get() - 1;
                }
                Some(entry) => return Ok(Version::of(&entry)),
            }
        }
    }

    /// As [`Image::version`], where what the image sees in the base may have been saved since it was opened.
    async fn version_or_saved(&self, lba: u64) -> Result<Version> {
        let index = self.core.contents.index();
        let now = index.current(lba).await?;
        if now.birth <= self.sequence {
            return Ok(now);
        }
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::NewerCopyWins) {
            let saved = index.versions(lba).await?;
            let newest = saved.iter().map(Version::of).rfind(|version| !version.is_in_base());
            return Ok(newest.unwrap_or(index.blank()));
        }
        // In memory first: a checkpoint may put it into a run meanwhile.
        match index.saved_since(lba, self.sequence) {
            Some(saved) => Ok(saved),
            None => self.version(&index.runs(), lba).await,
        }
    }

    /// Fills `buf` from `offset`; both are multiples of the volume's block.
    ///
    /// # Errors
    /// `Misaligned`, `BlockDamaged`, `MetadataDamaged`, and what the device says.
    pub async fn read(&self, offset: ByteOffset, mut buf: Buf) -> (Result<()>, Buf) {
        let block_bytes = u64::from(self.core.geometry.block_bytes);
        let length = buf.len() as u64;
        if (offset.0 | length) & (block_bytes - 1) != 0 {
            let reason = Reason::Misaligned { offset: offset.0, length, granularity: block_bytes };
            return (Err(Error::new("read image", reason).on(self.core.device.name())), buf);
        }
        let (first, blocks) = (offset.0 / block_bytes, length / block_bytes);
        let mut looked_up = self.versions(first, blocks).await;
        loop {
            let versions = match looked_up {
                Ok(versions) => versions,
                Err(error) => return (Err(error), buf),
            };
            let (result, back) = self.core.read_versions(first, &versions, buf, Cause::Application).await;
            buf = back;
            match result {
                Err(error) if matches!(error.reason(), Reason::BlockDamaged { .. }) => {
                    looked_up = self.versions(first, blocks).await;
                    // Unless it has been given another name meanwhile, or has come home, it is damaged.
                    if looked_up.as_ref().is_ok_and(|now| *now == versions) {
                        return (Err(error), buf);
                    }
                }
                // It may have been saved, and then overwritten, while it was read.
                Ok(()) if self.core.backend == Backend::Cow => {
                    match self.is_as_read(first, &versions).await {
                        Ok(true) => return (Ok(()), buf),
                        Ok(false) => looked_up = self.versions(first, blocks).await,
                        Err(error) => return (Err(error), buf),
                    }
                }
                result => return (result, buf),
            }
        }
    }

    /// Whether what was read in the base is still there, or nobody writes.
    async fn is_as_read(&self, first: u64, versions: &[Version]) -> Result<bool> {
        for (lba, _) in (first..).zip(versions).filter(|(_, version)| version.is_in_base()) {
            if self.core.log.is_some() && self.core.contents.index().current(lba).await?.birth > self.sequence
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where the blocks lie.
    async fn versions(&self, first: u64, blocks: u64) -> Result<Vec<Version>> {
        let mut versions = Vec::with_capacity(blocks as usize);
        if self.core.backend == Backend::Cow && self.core.log.is_some() {
            for lba in first..first + blocks {
                versions.push(self.version_or_saved(lba).await?);
            }
            return Ok(versions);
        }
        // As they are now: with old ones, the image would keep their pages, and the names of rows gathered since.
        let runs = self.core.contents.index().runs();
        for lba in first..first + blocks {
            versions.push(self.version(&runs, lba).await?);
        }
        for (lba, version) in (first..).zip(&mut versions) {
            *version = self.core.now_at(lba, *version);
        }
        Ok(versions)
    }
}
