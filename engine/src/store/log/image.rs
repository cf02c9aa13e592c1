//! The past: images of any moment in the window, with entries left out on request, and lists of versions.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::rc::Rc;

use super::{Core, LogStore};
use crate::buf::Buf;
use crate::device::Cause;
use crate::error::{Error, Reason, Result};
use crate::format::index_page::IndexEntry;
use crate::pool::branches::Branch;
use crate::pool::contents;
use crate::pool::history::{History, Line};
use crate::pool::index::current::Version;
use crate::pool::index::run::Run;
use crate::runtime::RangeGuard;
use crate::store::Backend;
use crate::units::{ByteOffset, Moment, Seq, address_of, lba_of};

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
    moment: Moment,
    line: Line,
    /// What its branch began as.
    parent: Option<Rc<Image>>,
    without: BTreeSet<Seq>,
    _pins: Vec<contents::Pin>,
}

impl LogStore {
    /// Opens an image. `guard`: what keeps writers out until its moment is pinned.
    pub async fn image(&self, options: ImageOptions, guard: Option<RangeGuard>) -> Result<Image> {
        let core = &self.core;
        let sequence = options.sequence.map_or(core.sequence(), |sequence| sequence.0);
        core.check_not_broken(Moment { branch: self.branch, sequence })?;
        let image = core.pin_image(Moment { branch: self.branch, sequence }, options.without)?;
        drop(guard);
        core.complete(image).await
    }

    /// Opens the image of a snapshot, of whichever branch it is.
    pub async fn image_of(&self, name: &str) -> Result<Image> {
        let moment = self.moment_of(name)?;
        self.core.check_not_broken(moment)?;
        self.core.complete(self.core.pin_image(moment, BTreeSet::new())?).await
    }
}

impl Core {
    /// Whether the copies of what a moment of a `cow` volume sees may be lost with the device of objects. Where nothing has
    /// been saved since, the base has all of it.
    pub(super) fn is_lost(&self, moment: Moment) -> bool {
        self.lost_objects.is_some()
            && self.backend == Backend::Cow
            && moment.branch == 0
            && moment.sequence < self.sequence()
    }

    fn check_not_broken(&self, moment: Moment) -> Result<()> {
        match self.is_lost(moment) {
            true => {
                let broken = Reason::SnapshotBroken { moment: moment.sequence };
                Err(Error::new("open image", broken).on(self.device.name()))
            }
            false => Ok(()),
        }
    }

    /// What an image shows is to be in runs, and the pins keep it in those that they are merged to.
    async fn complete(&self, image: Image) -> Result<Image> {
        if self.log.is_some() {
            self.checkpoint().await?;
        }
        Ok(image)
    }

    /// The image that a branch began as; none for a volume.
    pub(super) fn parent_image(self: &Rc<Self>, branch: u32) -> Result<Option<Rc<Image>>> {
        let found = self.contents.journal().state().branches.get(branch).cloned();
        if branch == 0 || found.as_ref().is_some_and(Branch::is_volume) {
            return Ok(None);
        }
        let parent = {
            let state = self.contents.journal().state();
            found.and_then(|branch| state.snapshots.get(branch.parent()?).cloned())
        };
        match parent {
            Some(parent) => Ok(Some(Rc::new(self.pin_image(parent.moment(), BTreeSet::new())?))),
            None => Err(Error::new("open image", Reason::MetadataDamaged).on(self.device.name())),
        }
    }

    /// An image of a moment, which stays there from now on.
    pub(super) fn pin_image(self: &Rc<Self>, moment: Moment, without: BTreeSet<Seq>) -> Result<Image> {
        let (last, earliest) = (self.sequence(), self.contents.window());
        let Moment { branch, sequence } = moment;
        let refused = |reason| Err(Error::new("open image", reason).on(self.device.name()));
        if sequence > last {
            return refused(Reason::UnknownMoment { moment: sequence, last });
        }
        if let Some(missing) = without.iter().find(|entry| entry.0 == 0 || entry.0 > last) {
            return refused(Reason::UnknownMoment { moment: missing.0, last });
        }
        // Without an entry, what it superseded must still be there.
        let needed = without.first().map_or(sequence, |first| sequence.min(first.0 - 1));
        let is_named = without.is_empty() && self.contents.can_open(moment);
        // Without the copies behind the damage, the base would be taken for what it was.
        if let Some(good_through) = self.report.damaged_after
            && self.backend == Backend::Cow
            && self.log.is_none()
        {
            return refused(Reason::LogDamaged { good_through });
        }
        if needed < earliest && self.is_broken(moment) {
            return refused(Reason::SnapshotBroken { moment: sequence });
        }
        if needed < earliest && !is_named {
            return refused(Reason::Expired { moment: needed, earliest });
        }
        let parent = self.parent_image(branch)?;
        if parent.as_ref().is_some_and(|parent| needed < parent.moment.sequence) {
            return refused(Reason::UnknownMoment { moment: needed, last });
        }
        let before = without.iter().map(|entry| entry.0 - 1).filter(|moment| *moment <= sequence);
        let pin = |sequence| self.contents.pin(Moment { branch, sequence });
        let pins = before.chain([sequence]).map(pin).collect();
        let line = self.contents.index().line(moment);
        Ok(Image { core: Rc::clone(self), moment, line, parent, without, _pins: pins })
    }
}

impl LogStore {
    /// The versions of a block that can still be read, oldest first.
    pub async fn versions(&self, offset: ByteOffset) -> Result<Vec<VersionInfo>> {
        let contents = &self.core.contents;
        let address = self.address(offset);
        let wanted = contents.wanted();
        let all = contents.index().versions(address).await?;
        let blank = match &self.parent {
            Some(parent) => parent.origin(lba_of(address)).await?,
            None => contents.index().blank(address),
        };
        // What was saved of the base may be as old as the volume.
        let blank = Some(blank).filter(|_| all.first().is_none_or(|first| first.sequence > 0));
        let all = blank.into_iter().chain(all.iter().map(Version::of));
        let info = |version: Version| VersionInfo {
            sequence: Seq(version.birth),
            checksum: version.checksum,
            zero: version.is_zero(),
        };
        let mut versions: Vec<VersionInfo> = all.map(info).collect();
        let births: Vec<u64> = versions.iter().map(|version| version.sequence.0).collect();
        let history = if self.branch == 0 { contents.index().history().clone() } else { History::default() };
        let mut at = 0;
        versions.retain(|version| {
            at += 1;
            let death = history.death(version.sequence.0, &births[at..]);
            death.is_none_or(|death| wanted.sees(self.branch, version.sequence.0, death))
        });
        Ok(versions)
    }
}

impl Image {
    /// The moment that it shows.
    pub fn sequence(&self) -> Seq {
        Seq(self.moment.sequence)
    }

    /// What this sees and those that its branch, and theirs, began as, for comparing moments.
    pub(super) fn view(&self) -> Vec<(u32, Line)> {
        let mut view = self.parent.as_ref().map(|parent| parent.view()).unwrap_or_default();
        view.push((self.moment.branch, self.line.clone()));
        view
    }

    /// The size of what it is a moment of; none for the pool's own volume.
    pub fn size_bytes(&self) -> Option<u64> {
        self.core.contents.journal().state().volume_of(self.moment.branch)?.1
    }

    /// Which branch's moment it is.
    pub(super) fn branch(&self) -> u32 {
        self.moment.branch
    }

    fn address(&self, lba: u64) -> u64 {
        address_of(self.moment.branch, lba)
    }

    /// The version of a block that it shows, whichever branch that is of.
    fn origin(&self, lba: u64) -> Pin<Box<dyn Future<Output = Result<Version>> + '_>> {
        Box::pin(async move {
            let version = self.versions(lba, 1).await?[0];
            match &self.parent {
                Some(parent) if version.is_inherited() => parent.origin(lba).await,
                _ => Ok(version),
            }
        })
    }

    /// The version of a block that its own branch has.
    async fn version(&self, runs: &[Rc<Run>], lba: u64) -> Result<Version> {
        let (index, address) = (self.core.contents.index(), self.address(lba));
        if self.core.log.is_none() {
            // Opened for reading: the log's tail is in no run, and nothing changes.
            let all = index.versions(address).await?;
            let shown = |entry: &&IndexEntry| {
                let sequence = entry.sequence.get();
                self.line.sees(sequence) && !self.without.contains(&Seq(sequence))
            };
            return Ok(all.iter().rev().find(shown).map_or(index.blank(address), Version::of));
        }
        let mut sequence = self.moment.sequence;
        loop {
            match index.find(runs, &self.line, address, sequence).await? {
                None => return Ok(index.blank(address)),
                Some(entry) if self.without.contains(&Seq(entry.sequence.get())) => {
                    sequence = entry.sequence.get() - 1;
                }
                Some(entry) => return Ok(Version::of(&entry)),
            }
        }
    }

    /// As [`Image::version`], where what the image sees in the base may have been saved since it was opened.
    async fn version_or_saved(&self, lba: u64) -> Result<Version> {
        let (index, moment) = (self.core.contents.index(), self.moment.sequence);
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::NewerCopyWins)
            && index.current(lba).await?.birth > moment
        {
            let saved = index.versions(lba).await?;
            let newest = saved.iter().map(Version::of).rfind(|version| !version.is_in_base());
            return Ok(newest.unwrap_or(index.blank(lba)));
        }
        // In memory first: a checkpoint may put it into a run meanwhile. Of a block whose page is not there, runs hold all
        // there is; the page is not brought in, since that reads every version of 64 blocks.
        match index.current_now(lba) {
            Some(now) if now.birth <= moment => return Ok(now),
            Some(_) => {
                if let Some(saved) = index.saved_since(lba, moment) {
                    return Ok(saved);
                }
            }
            None => {}
        }
        self.version(&index.runs(), lba).await
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
        let mut changes = self.core.placing.changes();
        let of_index = self.core.contents.index().changes();
        let mut looked_up = self.versions(first, blocks).await;
        loop {
            let versions = match looked_up {
                Ok(versions) => versions,
                Err(error) => return (Err(error), buf),
            };
            let (address, parent) = (self.address(first), self.parent.as_deref());
            let reading = self.core.read_versions(address, &versions, parent, buf, Cause::Application);
            let (result, back) = reading.await;
            buf = back;
            let doubt = match result {
                // It may have been given another name meanwhile, or have come home.
                Err(error) if matches!(error.reason(), Reason::BlockDamaged { .. }) => error,
                // Or have been copied, and then overwritten in the base.
                Ok(()) if self.core.may_have_moved(&versions, changes) || self.may_be_copied(&versions) => {
                    changes = self.core.placing.changes();
                    looked_up = self.versions(first, blocks).await;
                    if looked_up.as_ref().is_ok_and(|now| *now == versions) {
                        return (Ok(()), buf);
                    }
                    continue;
                }
                // It may have been saved, and then overwritten, while it was read.
                Ok(()) if self.core.backend == Backend::Cow => {
                    match self.is_as_read(first, &versions, of_index).await {
                        Ok(true) => return (Ok(()), buf),
                        Ok(false) => Error::new("read image", Reason::MetadataDamaged)
                            .on(self.core.device.name())
                            .at(offset.0),
                        Err(error) => return (Err(error), buf),
                    }
                }
                result => return (result, buf),
            };
            looked_up = self.versions(first, blocks).await;
            if looked_up.as_ref().is_ok_and(|now| *now == versions) {
                return (Err(doubt), buf);
            }
        }
    }

    /// Whether what was read in the base may be overwritten by what comes out of the log.
    fn may_be_copied(&self, versions: &[Version]) -> bool {
        self.core.bringing().is_some() && versions.iter().any(Version::is_in_base)
    }

    /// Whether what was read in the base is still there, or nobody writes. `changes`: of the index, before it was looked up.
    async fn is_as_read(&self, first: u64, versions: &[Version], changes: u64) -> Result<bool> {
        if self.core.log.is_none() {
            return Ok(true);
        }
        let index = self.core.contents.index();
        for (lba, _) in (first..).zip(versions).filter(|(_, version)| version.is_in_base()) {
            let is_there = match index.current_now(lba) {
                Some(now) => now.birth <= self.moment.sequence,
                // The page of a block that has been saved stays in memory until a run says so.
                None if index.changes() == changes => true,
                None => self.version(&index.runs(), lba).await?.is_in_base(),
            };
            if !is_there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where the blocks lie.
    async fn versions(&self, first: u64, blocks: u64) -> Result<Vec<Version>> {
        let mut versions = Vec::with_capacity(blocks as usize);
        if self.core.backend == Backend::Cow && self.core.log.is_some() && self.moment.branch == 0 {
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
