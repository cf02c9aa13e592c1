//! Snapshots in a play: a moment that has a name opens and shows what was recorded, whatever is written, however
//! often power is cut, and whatever retention lets go of, until its name is given up.

use std::rc::Rc;

use super::World;
use super::past::{contents_of, first_difference};
use crate::error::Reason;
use crate::object::ObjectKind;
use crate::store::log::{ImageOptions, LockTime};
use crate::units::{SECTOR_BYTES, Seq};

/// Snapshots of a play at most: each takes as much room as the volume.
const NAMED_MAX: usize = 3;

impl World<'_> {
    /// Takes a snapshot; of too many, one is deleted first.
    pub(super) async fn take_snapshot(&mut self, which: u64) -> Result<(), String> {
        if self.past.named.len() == NAMED_MAX {
            let at = which as usize % NAMED_MAX;
            let name = self.past.named[at].0.clone();
            let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
            self.give_up(&volume, &name).await?;
            self.past.named.remove(at);
        }
        let before = self.past.moments.len();
        self.remember(false).await?;
        let Some(moment) = self.past.moments.get(before).cloned() else { return Ok(()) };
        let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
        self.past.names += 1;
        let name = format!("moment {}", self.past.names);
        match self.shared.bounded("take snapshot", volume.create_snapshot(&name)).await? {
            // A write whose future was dropped has ended meanwhile: it is not the moment that was read.
            Ok(taken) if taken.sequence != Seq(moment.sequence) => {
                let deleted = self.shared.bounded("delete snapshot", volume.delete_snapshot(&name)).await?;
                deleted.err().iter().for_each(|error| self.shared.judge_error("delete snapshot", error));
            }
            Ok(_) => {
                self.shared.note(match self.script.objects {
                    ObjectKind::Mapped => "snapshot: taken",
                    ObjectKind::Linear => "snapshot: taken, with a linear object",
                });
                if which >> 32 & 1 == 1 {
                    match self.shared.bounded("lock", volume.lock_snapshot(&name, LockTime::Held)).await? {
                        Ok(_) => drop(self.past.locked.insert(name.clone())),
                        // It may be locked, or not.
                        Err(error) => self.shared.judge_error("lock snapshot", &error),
                    }
                }
                self.past.named.push((name, moment));
            }
            // Older objects hold what the volume, or other snapshots, still need.
            Err(error) if matches!(error.reason(), Reason::NoRoomForObject { .. }) => {
                self.shared.note("snapshot: no room for its object");
            }
            Err(error) => self.shared.judge_error("take snapshot", &error),
        }
        Ok(())
    }

    /// Deletes a snapshot that is forgotten already; if it is locked, that is refused until it is unlocked.
    pub(super) async fn delete(&mut self, name: &str) -> Result<(), String> {
        let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
        let shared = Rc::clone(&self.shared);
        let was_locked = self.past.locked.remove(name);
        let mut deleted = shared.bounded("delete snapshot", volume.delete_snapshot(name)).await?;
        match &deleted {
            Ok(()) if was_locked => return Err(format!("{name} is deleted though it was locked")),
            Err(error) if matches!(error.reason(), Reason::SnapshotLocked { .. }) => {
                shared.note("snapshot: locked");
                if let Err(error) = shared.bounded("unlock", volume.unlock_snapshot(name)).await? {
                    shared.judge_error("unlock snapshot", &error);
                }
                deleted = shared.bounded("delete snapshot", volume.delete_snapshot(name)).await?;
            }
            _ => {}
        }
        match deleted {
            Ok(()) => shared.note("snapshot: deleted"),
            // A child that could not be deleted.
            Err(error)
                if matches!(error.reason(), Reason::HasChildren { .. })
                    && shared.faults.strikes.get().any() => {}
            // It may be gone by the next opening.
            Err(error) => shared.judge_error("delete snapshot", &error),
        }
        Ok(())
    }

    /// Folds the overlays up to one of the snapshots, or all; the older ones are deleted before, and no image is open.
    pub(super) async fn fold(&mut self, which: u64) -> Result<(), String> {
        let Some(volume) = self.quiet_volume().await? else { return Ok(()) };
        self.past.close_images();
        let shared = Rc::clone(&self.shared);
        let at = which as usize % (self.past.named.len() + 1);
        // Names are in the order of their moments.
        for (name, _) in self.past.named.drain(..at).collect::<Vec<_>>() {
            self.give_up(&volume, &name).await?;
        }
        let through = self.past.named.first().map(|(name, _)| name.clone());
        match shared.bounded("fold", volume.fold(through.as_deref())).await? {
            Ok(_) => shared.note("overlay: folded"),
            // The volume has gone back from that moment.
            Err(error) if matches!(error.reason(), Reason::Discarded { .. }) => {}
            // A snapshot that could not be deleted, or taken as was thought, is older.
            Err(error) if matches!(error.reason(), Reason::BasePinned { .. } | Reason::OutOfOrder { .. }) => {
            }
            Err(error) => shared.judge_error("fold", &error),
        }
        Ok(())
    }

    /// Every snapshot is there and shows its moment.
    pub(super) async fn judge_snapshots(&self) -> Result<(), String> {
        let shared = Rc::clone(&self.shared);
        let Some(volume) = &self.volume else { return Err("the volume is not open".to_string()) };
        let sectors = self.script.volume_bytes / SECTOR_BYTES;
        for (name, moment) in &self.past.named {
            let found = match volume.snapshot(name) {
                Ok(found) => found,
                Err(error) if matches!(error.reason(), Reason::NoSnapshot { .. }) => {
                    return Err(format!("{name} is gone"));
                }
                Err(error) => return Err(error.to_string()),
            };
            if found.sequence != Seq(moment.sequence) {
                return Err(format!("{name} is {:?}, and was {}", found.sequence, moment.sequence));
            }
            if self.past.locked.contains(name) && found.lock.is_none_or(|lock| !lock.held) {
                return Err(format!("{name} is not locked any more"));
            }
            let options = ImageOptions { sequence: Some(found.sequence), ..ImageOptions::default() };
            let image = match shared.bounded("open image", volume.image(options)).await? {
                Ok(image) => image,
                Err(error) => {
                    shared.judge_error("open snapshot", &error);
                    return Ok(());
                }
            };
            match shared.bounded("read snapshot", contents_of(&shared, &image, sectors)).await? {
                Ok(found) => {
                    if let Some(sector) = first_difference(&moment.contents, &found) {
                        return Err(format!("{name} shows other bytes in sector {sector}"));
                    }
                    shared.note("snapshot: shown");
                    if moment.is_from_before_a_cut {
                        shared.note("snapshot: shown after a cut");
                    }
                }
                Err(error) => shared.judge_error("read snapshot", &error),
            }
        }
        Ok(())
    }
}
