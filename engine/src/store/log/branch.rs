//! Writable snapshots: making them, opening them, and letting go of what they have written; the last two of further
//! volumes (`volumes`) too.
//!
//! Making one is one record of the metadata. What it is given lies in the log as entries of its branch, whatever the
//! backend is; a block that it has not written is read from the image that it began as, to any depth.
//!
//! Invariants: the snapshot that it began as is not given up while it is there, nor broken; nothing of a branch is
//! given up while somebody has it open, or a moment of it has a name; its entries leave the index, and their places come
//! free, in the one commit that forgets its number.

use std::cell::RefCell;
use std::rc::Rc;

use super::space::Reserved;
use super::{Core, LogStore, SnapshotInfo};
use crate::error::{Error, Reason, Result};
use crate::format::journal::Change;
use crate::pool::branches::{Branch, LEVELS_MAX, Origin};
use crate::pool::index::current::Version;
use crate::pool::index::merge::Readers;
use crate::pool::metadata::{Metadata, Named};
use crate::pool::snapshots::check_name;
use crate::units::{address_of, branch_of};

/// The branches that somebody has open, once for each opener, and those that are being given up.
#[derive(Debug, Default)]
pub(super) struct OpenBranches {
    open: RefCell<Vec<u32>>,
    leaving: RefCell<Vec<u32>>,
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.tasks.iter().for_each(crate::runtime::Task::abort);
        let open = &mut *self.core.open_branches.open.borrow_mut();
        if let Some(at) = open.iter().position(|branch| *branch == self.branch) {
            open.swap_remove(at);
        }
    }
}

impl LogStore {
    /// Refuses a writable snapshot that cannot be made.
    pub fn check_clone(&self, of: &str, name: &str) -> Result<()> {
        check_name(name)?;
        self.core.check_new_name("clone snapshot", name)?;
        let moment = self.moment_of(of)?;
        if self.core.is_broken(moment) {
            let reason = Reason::SnapshotBroken { moment: moment.sequence };
            return Err(Error::new("clone snapshot", reason).on(self.core.device.name()));
        }
        self.core.check_levels(&self.core.contents.journal().state(), moment.branch, of)
    }

    /// Makes a writable snapshot that begins as a snapshot. Durable when it returns.
    pub async fn clone_snapshot(&self, of: &str, name: &str) -> Result<SnapshotInfo> {
        let core = &self.core;
        core.log()?;
        let time_unix_ns = core.device.context().unix_time_ns();
        let mut made = Err(core.no_snapshot(of));
        core.contents
            .journal()
            .commit(|state| {
                // Others may have been at it since it was asked.
                if let Err(error) = core.check_name_in(state, "clone snapshot", name, 0) {
                    made = Err(error);
                    return Vec::new();
                }
                let parent = match state.named(of) {
                    Some(Named::Snapshot(parent)) if parent.keeping.is_kept() => parent,
                    _ => return Vec::new(),
                };
                if let Err(error) = core.check_levels(state, parent.branch, of) {
                    made = Err(error);
                    return Vec::new();
                }
                let (number, origin) = (next_number(state), Origin::Snapshot(parent.number));
                let branch = Branch { number, origin, time_unix_ns, given_up: false, name: name.to_string() };
                made = Ok(core.info_of_branch(state, &branch));
                vec![branch.change()]
            })
            .await?;
        made
    }

    /// The store of a writable snapshot. Its image is read with the store that is given beside it.
    pub async fn open_branch(&self, name: &str) -> Result<Self> {
        let core = &self.core;
        let branch = match core.contents.journal().state().named(name) {
            Some(Named::Branch(branch)) if !core.open_branches.leaving.borrow().contains(&branch.number) => {
                branch.number
            }
            Some(Named::Snapshot(_)) => {
                let reason = Reason::SnapshotReadOnly { name: name.to_string() };
                return Err(Error::new("open writable snapshot", reason).on(core.device.name()));
            }
            _ => return Err(core.no_snapshot(name)),
        };
        let parent = core.parent_image(branch)?;
        core.open_branches.open.borrow_mut().push(branch);
        let store = Self { core: Rc::clone(core), branch, parent, tasks: Vec::new() };
        // What the image shows is to be in runs.
        if core.log.is_some() {
            core.checkpoint().await?;
        }
        Ok(store)
    }

    /// The number of the writable snapshot that this is the store of; 0 for the volume itself.
    pub fn branch(&self) -> u32 {
        self.branch
    }

    /// The name of the writable snapshot that this is the store of; none for the volume itself.
    pub fn branch_name(&self) -> Option<String> {
        let state = self.core.contents.journal().state();
        state.branches.get(self.branch).map(|branch| branch.name.clone())
    }

    /// Refuses what can be done with the volume alone.
    pub fn check_is_volume(&self, name: &'static str) -> Result<()> {
        if self.branch == 0 {
            return Ok(());
        }
        Err(Error::new(name, Reason::NotOfSnapshots).on(self.core.device.name()))
    }

    /// Room for what a write to the branch adds to what snapshots keep, where that has a limit of its own.
    pub(super) async fn room_in_branch(&self, first: u64, blocks: u64) -> Result<Option<Reserved<'_>>> {
        let contents = &self.core.contents;
        if self.core.space.limit_blocks.is_none() {
            return Ok(None);
        }
        loop {
            let mut more = 0;
            for address in first..first + blocks {
                let now: Version = contents.index().current(address).await?;
                more += u64::from(!now.has_slot() || contents.is_kept(address, &now));
            }
            if let Some(reserved) = self.reserve(more).await? {
                return Ok(Some(reserved));
            }
        }
    }
}

/// A number that no branch has.
pub(super) fn next_number(state: &Metadata) -> u32 {
    let Some(number) = state.branches.free_number() else { unreachable!("there is room for fewer names") };
    number
}

impl Core {
    /// Refuses a name that is in use, or for which there is no room.
    pub(super) fn check_new_name(&self, action: &'static str, name: &str) -> Result<()> {
        self.check_name_in(&self.contents.journal().state(), action, name, 0)
    }

    /// `more`: names that go with it, and are not there yet.
    pub(super) fn check_name_in(
        &self,
        state: &Metadata,
        action: &'static str,
        name: &str,
        more: usize,
    ) -> Result<()> {
        let reason = match state.named(name) {
            Some(_) => Reason::SnapshotExists { name: name.to_string() },
            None if state.names() + more >= state.names_max() => {
                Reason::TooManySnapshots { limit: state.names_max() }
            }
            None => return Ok(()),
        };
        Err(Error::new(action, reason).on(self.device.name()))
    }

    /// Refuses a branch below this one that is too deep.
    fn check_levels(&self, state: &Metadata, branch: u32, of: &str) -> Result<()> {
        if state.levels(branch).is_some_and(|levels| levels < LEVELS_MAX) {
            return Ok(());
        }
        let reason = Reason::TooDeep { name: of.to_string(), limit: LEVELS_MAX };
        Err(Error::new("clone snapshot", reason).on(self.device.name()))
    }

    pub(super) fn has_children(&self, name: &str) -> Error {
        Error::new("delete snapshot", Reason::HasChildren { name: name.to_string() }).on(self.device.name())
    }

    /// Refuses to give up a branch that somebody has open, or that has snapshots.
    pub(super) fn check_unused(&self, state: &Metadata, branch: &Branch) -> Result<()> {
        if state.snapshots.of_branch(branch.number).any(|one| one.keeping.has_name()) {
            return Err(self.has_children(&branch.name));
        }
        let is_open = self.open_branches.open.borrow().contains(&branch.number);
        if is_open || self.contents.is_branch_pinned(branch.number) {
            let reason = Reason::SnapshotInUse { name: branch.name.clone() };
            return Err(Error::new("delete snapshot", reason).on(self.device.name()));
        }
        Ok(())
    }

    /// Nobody may open a branch any more.
    pub(super) fn close_branch(&self, branch: u32) {
        self.open_branches.leaving.borrow_mut().push(branch);
    }

    /// A branch that has been given up and whose snapshots are gone.
    pub(super) fn dropped_branch(&self) -> Option<u32> {
        let state = self.contents.journal().state();
        let is_free =
            |branch: &&Branch| branch.given_up && state.snapshots.of_branch(branch.number).next().is_none();
        state.branches.values().find(is_free).map(|branch| branch.number)
    }

    /// Lets go of all that a branch has written, in one commit.
    pub(super) async fn drop_branch(&self, branch: u32) -> Result<()> {
        // Everything of it is in runs then, and nothing of it comes after the checkpoint.
        self.checkpoint().await?;
        let mut places = Vec::new();
        let runs = self.contents.index().runs();
        let mut readers = Readers::open_from(runs.iter(), address_of(branch, 0)).await?;
        let mut last: Option<(u64, Version)> = None;
        let newest = |last: Option<(u64, Version)>| {
            last.filter(|(_, version)| version.has_slot())
                .map(|(_, version)| (version.virtual_segment, version.slot))
        };
        while let Some(entry) = readers.next().await? {
            if branch_of(entry.lba.get()) != branch {
                break;
            }
            if last.is_some_and(|(address, _)| address != entry.lba.get()) {
                places.extend(newest(last));
            }
            last = Some((entry.lba.get(), Version::of(&entry)));
        }
        places.extend(newest(last));
        // Somebody may have given a moment up meanwhile: first that, then this once more.
        if !self.may_merge() {
            return Ok(());
        }
        // What it had superseded is held by the window alone.
        places.extend(self.contents.forget_branch(branch));
        let news = |state: &mut Metadata| {
            places.iter().for_each(|place| self.contents.kill_in(state, *place));
            let mut changes = self.news_of_rows(state, 0);
            changes.push(Change::BranchRemoved(branch));
            changes
        };
        let gone = Some(branch);
        #[cfg(feature = "mutations")]
        let gone = gone.filter(|_| !crate::mutation::is_on(crate::mutation::Mutation::BranchLeftBehind));
        self.rewrite_index(gone, |_, place| place, news).await?;
        self.open_branches.leaving.borrow_mut().retain(|leaving| *leaving != branch);
        // Whoever waits for room, or for the branch to be gone, looks again.
        self.settled.give();
        Ok(())
    }
}
