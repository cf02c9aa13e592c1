//! Snapshots of several volumes at one write boundary (a consistency group), whichever pools these lie in.
//!
//! All of all volumes is held at once, so that at one instant nothing is being written to any of them; everything is
//! flushed; each pool names its moments in one record; then writers go on. A write that was called after another one
//! had completed, on whichever of the volumes, is therefore in its snapshot only if that other one is in its own.
//!
//! Invariants: who holds several volumes has taken them in one order (`Order`), so that nobody waits for somebody
//! who waits for him; what a program of another process holds here ends by itself ([`HOLD_NS_MAX`]). A group that was cut
//! short between two pools can be told: each snapshot says how many there are ([`incomplete_groups`]).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use super::Volume;
use super::create::random_id;
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{FEATURE_GROUPS, FEATURE_SNAPSHOTS};
use crate::runtime::{RangeGuard, join_all};
use crate::store::log::{SnapshotGroup, SnapshotInfo};

/// Nanoseconds for which another process may hold a volume: long enough for the volumes of a group to be flushed, and
/// shorter than the patience of most who write.
pub const HOLD_NS_MAX: u64 = 4_000_000_000;

/// The order in which pools are held: by identity and, where one is a copy of another, by the device's name.
type Order = ([u8; 16], String);

/// Branches of one pool that nobody writes while this exists, and what their moments are to be called.
#[derive(Debug)]
pub(super) struct Hold {
    members: Vec<(u32, String)>,
    group: Option<SnapshotGroup>,
    guards: Vec<RangeGuard>,
}

/// A hold for somebody else, with the volumes that it keeps open, until it is made use of.
#[derive(Debug, Default)]
pub(super) struct Lent(RefCell<Option<(Hold, Vec<Volume>)>>);

/// What is lent, by the identities of groups. A task that lets go of it in time owns it.
pub(super) type Loans = RefCell<BTreeMap<[u8; 16], Weak<Lent>>>;

/// A group of which not all snapshots are there: taking it was cut short, or some of it has been deleted or broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncompleteGroup {
    /// Which group, and how many snapshots it was taken as.
    pub group: SnapshotGroup,
    /// The names of those that are there.
    pub found: Vec<String>,
}

/// The groups of which some snapshots, and not all, are among these: all those of all volumes that a group may be of.
pub fn incomplete_groups<'a>(snapshots: impl IntoIterator<Item = &'a SnapshotInfo>) -> Vec<IncompleteGroup> {
    let mut groups: BTreeMap<SnapshotGroup, Vec<String>> = BTreeMap::new();
    for snapshot in snapshots {
        let Some(group) = snapshot.group else { continue };
        let found = groups.entry(group).or_default();
        found.extend(Some(&snapshot.name).filter(|_| !snapshot.broken).cloned());
    }
    let is_short = |(group, found): &(SnapshotGroup, Vec<String>)| found.len() < group.members as usize;
    let groups = groups.into_iter().filter(is_short);
    groups.map(|(group, found)| IncompleteGroup { group, found }).collect()
}

impl Volume {
    /// Takes a snapshot of each of these volumes, at one instant, under the name beside it: in each of them is everything
    /// that had completed by then, on all of them, and nothing that is called after this returned. They may be writable
    /// snapshots and further volumes, and lie in any pools that are open on one runtime; those of one pool are one record of its metadata.
    /// Durable when it returns; a failure takes back what was taken. Reads go on meanwhile, writes wait. The snapshots, in
    /// the order in which the volumes were given; a dropped future does not stop it half way.
    ///
    /// # Errors
    /// As [`Volume::create_snapshot`]; `InvalidSetting` where a volume is given twice.
    pub async fn create_group(members: &[(Volume, &str)]) -> Result<Vec<SnapshotInfo>> {
        let Some((first, _)) = members.first() else { return Ok(Vec::new()) };
        let context = first.context().clone();
        let members = members.iter().map(|(volume, name)| (volume.clone(), name.to_string())).collect();
        context.to_its_end("take snapshots", take(members)).await
    }

    /// The groups of which not all snapshots are among those of these volumes and their pools.
    pub fn incomplete_groups(volumes: &[Volume]) -> Vec<IncompleteGroup> {
        let mut pools: Vec<&Volume> = Vec::new();
        for volume in volumes {
            if !pools.iter().any(|pool| pool.shares_pool(volume)) {
                pools.push(volume);
            }
        }
        let all: Vec<SnapshotInfo> = pools.iter().flat_map(|pool| pool.snapshots()).collect();
        incomplete_groups(&all)
    }

    fn shares_pool(&self, other: &Volume) -> bool {
        Rc::ptr_eq(&self.0.superblock, &other.0.superblock)
    }

    fn order(&self) -> Order {
        (self.0.superblock.borrow().pool_id, self.0.device.name().to_string())
    }

    /// Holds these volumes of this pool, and makes durable what has completed on them.
    async fn hold(members: &[&(Volume, String)], group: Option<SnapshotGroup>) -> Result<Hold> {
        let mut in_order = members.to_vec();
        in_order.sort_by_key(|(volume, _)| volume.branch());
        let mut guards = Vec::new();
        for (volume, name) in in_order {
            volume.check_writable("take snapshot")?;
            volume.0.store.log()?.check_snapshot(name)?;
            guards.push(volume.lock_for_snapshot().await);
            volume.check_writable("take snapshot")?;
        }
        let members = members.iter().map(|(volume, name)| (volume.branch(), name.clone())).collect();
        Ok(Hold { members, group, guards })
    }

    fn branch(&self) -> u32 {
        self.0.store.log().map_or(0, |log| log.branch())
    }

    /// What has completed on these volumes is durable, and the pool may have such snapshots.
    async fn prepare(&self, hold: &Hold, volumes: &[Volume]) -> Result<()> {
        let log = self.0.store.log()?;
        hold.members.iter().try_for_each(|(_, name)| log.check_snapshot(name))?;
        let of_group = if hold.group.is_some() { FEATURE_GROUPS } else { 0 };
        self.use_feature(FEATURE_SNAPSHOTS | of_group).await?;
        for volume in volumes {
            volume.0.store.finish_rollback().await?;
            // What a crash takes back must not be in it. A base may lie on a device that a branch knows nothing of.
            volume.0.store.flush(volume.flush_io()).await?;
        }
        Ok(())
    }

    async fn name(&self, hold: &Hold) -> Result<Vec<SnapshotInfo>> {
        let members: Vec<(u32, &str)> =
            hold.members.iter().map(|(branch, name)| (*branch, name.as_str())).collect();
        self.check_writable("take snapshot")?;
        self.0.store.log()?.take_snapshots(&members, hold.group, &hold.guards).await
    }

    /// Takes one snapshot.
    pub(super) async fn take_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let hold = Self::hold(&[&(self.clone(), name.to_string())], None).await?;
        self.prepare(&hold, std::slice::from_ref(self)).await?;
        let mut taken = self.name(&hold).await?;
        Ok(taken.swap_remove(0))
    }

    /// Holds volumes of this pool for somebody in another process, who is going to say within [`HOLD_NS_MAX`] whether
    /// their moments get these names: of each, which writable snapshot it is, and the name.
    pub(crate) async fn hold_for(
        &self,
        group: SnapshotGroup,
        members: &[(Option<String>, String)],
    ) -> Result<()> {
        let (volume, members) = (self.clone(), members.to_vec());
        let holding = async move { volume.hold_members(group, members).await };
        self.context().to_its_end("hold", holding).await
    }

    async fn hold_members(&self, group: SnapshotGroup, wanted: Vec<(Option<String>, String)>) -> Result<()> {
        let mut members = Vec::with_capacity(wanted.len());
        for (of, name) in wanted {
            let volume = match of {
                Some(of) => self.open_writable(&of).await?,
                None => self.clone(),
            };
            members.push((volume, name));
        }
        refuse_twice(&members)?;
        let hold = Self::hold(&members.iter().collect::<Vec<_>>(), Some(group)).await?;
        // From here on it ends by itself, whatever becomes of the rest. A writable snapshot that is opened meanwhile is
        // the one that is held.
        let held: Vec<Volume> = members.into_iter().map(|(volume, _)| volume).collect();
        let volumes = held.clone();
        let lent = Rc::new(Lent(RefCell::new(Some((hold, held)))));
        {
            let mut loans = self.0.loans.borrow_mut();
            loans.retain(|_, lent| lent.strong_count() > 0);
            loans.insert(group.id, Rc::downgrade(&lent));
        }
        let context = self.context().clone();
        self.context().spawn(async move {
            context.sleep(HOLD_NS_MAX).await;
            drop(lent);
        });
        let empty = Hold { members: Vec::new(), group: Some(group), guards: Vec::new() };
        let prepared = self.prepare(&empty, &volumes).await;
        if prepared.is_err() {
            self.let_go(&group.id);
        }
        prepared
    }

    /// Names the moments of what is held for a group, and lets go of it.
    pub(crate) async fn name_held(&self, id: [u8; 16]) -> Result<Vec<SnapshotInfo>> {
        let Some((hold, held)) = self.borrowed(&id) else {
            let reason = Reason::HoldEnded { limit_ms: HOLD_NS_MAX / 1_000_000 };
            return Err(self.refuse("take snapshot", reason));
        };
        let volume = self.clone();
        let naming = async move {
            let named = volume.name(&hold).await;
            drop((hold, held));
            named
        };
        self.context().to_its_end("take snapshot", naming).await
    }

    /// Lets go of what is held for a group, if anything still is.
    pub(crate) fn let_go(&self, id: &[u8; 16]) {
        drop(self.borrowed(id));
    }

    /// Lets go of all that is held for others.
    pub(super) fn let_all_go(&self) {
        let loans: Vec<[u8; 16]> = self.0.loans.borrow().keys().copied().collect();
        loans.iter().for_each(|id| self.let_go(id));
    }

    fn borrowed(&self, id: &[u8; 16]) -> Option<(Hold, Vec<Volume>)> {
        let lent = self.0.loans.borrow_mut().remove(id)?;
        lent.upgrade()?.0.take()
    }
}

fn refuse_twice(members: &[(Volume, String)]) -> Result<()> {
    for (at, (volume, _)) in members.iter().enumerate() {
        if members[..at].iter().any(|(other, _)| Rc::ptr_eq(&other.0, &volume.0)) {
            let value = volume.writable_name().unwrap_or_else(|| volume.0.device.name().to_string());
            let rule = "each volume once is possible";
            let reason = Reason::InvalidSetting { name: "volume of a group", value, rule };
            return Err(Error::new("take snapshots", reason));
        }
    }
    Ok(())
}

/// One pool's part of a group: one of its volumes, and which members lie in it, by their places in the call.
type Part = (Volume, Vec<usize>);

async fn take(members: Vec<(Volume, String)>) -> Result<Vec<SnapshotInfo>> {
    refuse_twice(&members)?;
    let mut parts: Vec<Part> = Vec::new();
    for (at, (volume, _)) in members.iter().enumerate() {
        let same = |(pool, _): &&mut Part| pool.shares_pool(volume);
        #[cfg(feature = "mutations")]
        let same = |part: &&mut Part| {
            same(part) && !crate::mutation::is_on(crate::mutation::Mutation::GroupOneByOne)
        };
        match parts.iter_mut().find(same) {
            Some((_, part)) => part.push(at),
            None => parts.push((volume.clone(), vec![at])),
        }
    }
    parts.sort_by_cached_key(|(pool, _)| pool.order());
    let group = match &members[..] {
        [(first, _), _, ..] => {
            Some(SnapshotGroup { id: random_id(&first.0.device), members: members.len() as u32 })
        }
        _ => None,
    };
    let of_part = |part: &Part| part.1.iter().map(|at| &members[*at]).collect::<Vec<_>>();
    let volumes_of = |part: &Part| part.1.iter().map(|at| members[*at].0.clone()).collect::<Vec<_>>();
    let mut named: Vec<Result<Vec<SnapshotInfo>>> = Vec::new();
    #[cfg(feature = "mutations")]
    if crate::mutation::is_on(crate::mutation::Mutation::GroupOneByOne) {
        for part in &parts {
            let hold = Volume::hold(&of_part(part), group).await?;
            part.0.prepare(&hold, &volumes_of(part)).await?;
            named.push(part.0.name(&hold).await);
        }
    }
    if named.is_empty() {
        let mut holds = Vec::with_capacity(parts.len());
        for part in &parts {
            holds.push(Volume::hold(&of_part(part), group).await?);
        }
        // From here on nothing is being written to any of them.
        let each = || parts.iter().zip(&holds);
        let prepared = each().map(|(part, hold)| async { part.0.prepare(hold, &volumes_of(part)).await });
        join_all(prepared).await.into_iter().collect::<Result<()>>()?;
        named = join_all(each().map(|(part, hold)| part.0.name(hold))).await;
    }
    let mut taken: Vec<(usize, SnapshotInfo)> = Vec::new();
    let mut failed = None;
    for ((_, part), named) in parts.iter().zip(named) {
        match named {
            Ok(infos) => taken.extend(part.iter().copied().zip(infos)),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let Some(error) = failed else {
        taken.sort_by_key(|(at, _)| *at);
        return Ok(taken.into_iter().map(|(_, info)| info).collect());
    };
    for (at, info) in taken {
        // One that stays says that it is of a group which is not whole.
        let _stays = members[at].0.delete_snapshot(&info.name).await;
    }
    Err(error)
}
