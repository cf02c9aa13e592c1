//! Whether anything on this system uses a device, asked before it is written.
//!
//! The real guard is [`sys::open`] with exclusive access: the kernel refuses it while a
//! device is claimed, without a gap between asking and opening. This module adds what that cannot: it
//! says *what* stands in the way, and it sees users that claim nothing, such as a loop device over the
//! same bytes. A look without writing (`inspect`) never calls it.
//!
//! Invariant: devices are followed by number, never by name, so that an alias, a link or a renamed node
//! makes no difference. What overlaps the target (its partitions, its whole, what a loop device reads
//! from) and everything that stands on those is examined; a sibling partition is not. Where the system
//! cannot be asked, the answer is an error, not a yes.

mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::device::identity::sysfs::{BlockNode, DeviceNumber, Sysfs};
use crate::device::sys::{self, Node};
use crate::error::{Error, Reason, Result};
use tables::{FileId, Loop, Tables};

/// Refuses a block device or file that is mounted, used as swap, or stood upon.
///
/// # Errors
/// [`Reason::Mounted`], [`Reason::UsedAsSwap`] or [`Reason::Held`], the first that applies, naming the
/// device and its user; [`Reason::NotFound`], [`Reason::NotABlockDevice`], and what the system says
/// where it cannot be asked.
pub fn refuse_if_in_use(path: &Path) -> Result<()> {
    let examine = || {
        let metadata = std::fs::metadata(path).map_err(|error| Error::from_io(CLAIM, &error))?;
        let id = FileId::of(&metadata);
        let host = Host::real();
        match sys::node(&metadata)? {
            Node::BlockDevice => host.refuse_block_device(id.raw_device),
            Node::File => host.refuse_file(path, id),
        }
    };
    examine().map_err(
        |error| {
            if error.place().name.is_some() { error } else { error.on(path.display().to_string()) }
        },
    )
}

const CLAIM: &str = "claim";

fn refusal<T>(reason: Reason) -> Result<T> {
    Err(Error::new(CLAIM, reason))
}

type Look = Box<dyn Fn(&Path) -> Option<FileId>>;

/// Where the running system describes itself; tests give a made-up one.
struct Host {
    sysfs: Sysfs,
    proc: PathBuf,
    dev: PathBuf,
    /// What a path on this system leads to, links followed.
    look: Look,
}

impl Host {
    fn real() -> Self {
        Self {
            sysfs: Sysfs::at("/sys"),
            proc: "/proc".into(),
            dev: "/dev".into(),
            look: Box::new(|path| Some(FileId::of(&std::fs::metadata(path).ok()?))),
        }
    }

    fn refuse_file(&self, path: &Path, id: FileId) -> Result<()> {
        let tables = Tables::read(self)?;
        refuse_file_users(&tables, &path.display().to_string(), id, None)
    }

    fn refuse_block_device(&self, number: DeviceNumber) -> Result<()> {
        let tables = Tables::read(self)?;
        let target = self.node(number)?;
        let bases = self.bases(&tables, &target)?;
        let family = Family::of(&tables, &bases);
        family.refuse_mounts(&tables, &self.sysfs)?;
        family.refuse_swaps(&tables)?;
        match family.held.into_iter().next() {
            Some((device, holder)) => refusal(Reason::Held { device, holder }),
            None => Ok(()),
        }
    }

    /// The target, and what it reads from and writes to when it is a loop device: a loop device does
    /// not claim what it stands on, so that a write through it may reach something that is in use.
    fn bases(&self, tables: &Tables, target: &BlockNode) -> Result<Vec<BlockNode>> {
        let mut bases = vec![target.clone()];
        while let Some(own) = bases.last().and_then(|base| tables.loop_of(&whole_of(base))) {
            if !own.backing.is_block_device() {
                refuse_file_users(tables, &own.path, own.backing, Some(own))?;
                break;
            }
            let below = self.node(own.backing.raw_device)?;
            // The kernel refuses circles of loop devices; a description of one must not hang us.
            if bases.iter().any(|base| base.number == below.number) {
                break;
            }
            bases.push(below);
        }
        Ok(bases)
    }

    fn node(&self, number: DeviceNumber) -> Result<BlockNode> {
        let unknown = || {
            Error::new(CLAIM, Reason::Os { errno: libc::EOPNOTSUPP }).on(self
                .sysfs
                .place(number)
                .display()
                .to_string())
        };
        self.sysfs.block(number).ok_or_else(unknown)
    }
}

fn whole_of(node: &BlockNode) -> BlockNode {
    node.whole().unwrap_or_else(|| node.clone())
}

/// Refuses a file that swap or a loop device other than `own` (over the same bytes) uses.
fn refuse_file_users(tables: &Tables, name: &str, id: FileId, own: Option<&Loop>) -> Result<()> {
    if let Some(swap) = tables.swaps.iter().find(|swap| swap.id.is_some_and(|swap| swap.same_file(id))) {
        return refusal(Reason::UsedAsSwap { device: swap.path.clone() });
    }
    let uses = |user: &&Loop| user.backing.same_file(id) && own.is_none_or(|own| own.overlaps(user));
    match tables.loops.iter().find(uses) {
        Some(user) => refusal(Reason::Held { device: name.to_owned(), holder: user.node.name.clone() }),
        None => Ok(()),
    }
}

/// All devices whose use would be disturbed by a write to the target.
struct Family {
    /// By number, so that none is examined twice.
    members: BTreeMap<DeviceNumber, BlockNode>,
    /// Which member is held by which device.
    held: Vec<(String, String)>,
}

impl Family {
    fn of(tables: &Tables, bases: &[BlockNode]) -> Self {
        let mut family = Self { members: BTreeMap::new(), held: Vec::new() };
        let mut pending = Vec::new();
        for base in bases {
            // A partition overlaps its whole but not its siblings; a whole overlaps all its partitions.
            pending.extend(base.whole());
            pending.extend(base.partitions());
            pending.push(base.clone());
        }
        while let Some(node) = pending.pop() {
            if family.members.contains_key(&node.number) {
                continue;
            }
            let mut standing = node.holders();
            standing.extend(tables.loops_on(&node, bases));
            for holder in standing {
                family.held.push((node.device_path(), holder.name.clone()));
                pending.extend(holder.partitions());
                pending.push(holder);
            }
            family.members.insert(node.number, node);
        }
        family
    }

    fn refuse_mounts(&self, tables: &Tables, sysfs: &Sysfs) -> Result<()> {
        for mount in &tables.mounts {
            if let Some(node) = mount.devices().find_map(|number| self.members.get(&number)) {
                return mounted(node, &mount.mount_point);
            }
        }
        for filesystem in sysfs.btrfs_members() {
            let Some(node) = filesystem.iter().find_map(|number| self.members.get(number)) else {
                continue;
            };
            let shown = |mount: &&tables::Mount| mount.devices().any(|number| filesystem.contains(&number));
            let place = tables.mounts.iter().find(shown).map(|mount| mount.mount_point.as_str());
            return mounted(node, place.unwrap_or("a btrfs file system of several devices"));
        }
        Ok(())
    }

    fn refuse_swaps(&self, tables: &Tables) -> Result<()> {
        let member = |id: FileId| self.members.contains_key(&id.raw_device);
        match tables.swaps.iter().find(|swap| swap.id.is_some_and(member)) {
            Some(swap) => refusal(Reason::UsedAsSwap { device: swap.path.clone() }),
            None => Ok(()),
        }
    }
}

fn mounted(node: &BlockNode, mount_point: &str) -> Result<()> {
    refusal(Reason::Mounted { device: node.device_path(), mount_point: mount_point.to_owned() })
}

#[cfg(test)]
mod tests;
