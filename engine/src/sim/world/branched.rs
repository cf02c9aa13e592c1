//! Writable snapshots in a play: each is judged by a model of its own, whatever becomes of the volume, of its
//! siblings, and of power.

use std::rc::Rc;

use super::World;
use super::past::{contents_of, first_difference};
use crate::error::Reason;
use crate::runtime::Random;
use crate::sim::model::{Digest, Model, digest};
use crate::units::{ByteOffset, SECTOR_BYTES};
use crate::volume::{Durability, Volume};

/// Writable snapshots of a play at most.
const BRANCHES_MAX: usize = 3;
/// Blocks that a step writes at most: they lie where the log keeps what snapshots keep.
const BLOCKS_MAX: u64 = 3;

/// A writable snapshot and what it may hold.
pub(super) struct Branched {
    name: String,
    model: Model,
    /// Snapshots of it, by name, and what they show.
    moments: Vec<(String, Vec<Digest>)>,
    /// It has not been looked at since it was last opened.
    pub is_opened_anew: bool,
}

impl Branched {
    /// One that begins as these contents, durably.
    fn new(name: String, contents: &[Digest]) -> Self {
        let mut model = Model::new(contents.len());
        let begun = model.begin_write(0, contents.iter().copied());
        model.end_write(&begun, true, true);
        Self { name, model, moments: Vec::new(), is_opened_anew: false }
    }
}

impl World<'_> {
    /// Deletes a snapshot, writable or not, and before it what hangs on it. It is gone, or may be by the next opening.
    pub(super) async fn give_up(&mut self, volume: &Volume, name: &str) -> Result<(), String> {
        let is_child = |of: &Option<String>| of.as_deref() == Some(name);
        let children: Vec<String> =
            volume.snapshots().into_iter().filter(|one| is_child(&one.of)).map(|one| one.name).collect();
        for child in children {
            Box::pin(self.give_up(volume, &child)).await?;
        }
        self.past.branches.retain(|branch| branch.name != name);
        self.past.branches.iter_mut().for_each(|branch| branch.moments.retain(|moment| moment.0 != name));
        self.delete(name).await
    }

    /// Makes a writable snapshot, or writes one of them, or gives one up; then judges all.
    pub(super) async fn branch(&mut self, which: u64) -> Result<(), String> {
        let Some(volume) = self.quiet_volume().await? else { return Ok(()) };
        let random = &mut Random::from_seed(which);
        let (branches, moments) = (self.past.branches.len() as u64, self.past.named.len() as u64);
        if branches == 0 || (random.chance(1, 3) && branches < BRANCHES_MAX as u64) {
            if moments > 0 {
                self.make_branch(&volume, random.below(moments) as usize).await?;
            }
        } else {
            let at = random.below(branches) as usize;
            if random.chance(1, 5) {
                let name = self.past.branches[at].name.clone();
                self.give_up(&volume, &name).await?;
            } else {
                self.write_branch(&volume, at, random).await?;
            }
        }
        self.judge_branches().await
    }

    async fn make_branch(&mut self, volume: &Volume, at: usize) -> Result<(), String> {
        let (of, moment) = &self.past.named[at];
        self.past.names += 1;
        let name = format!("branch {}", self.past.names);
        match self.shared.bounded("clone snapshot", volume.clone_snapshot(of, &name)).await? {
            Ok(_) => {
                self.past.branches.push(Branched::new(name, &moment.contents));
                self.shared.note("writable snapshot: made");
            }
            Err(error) => self.shared.judge_error("clone snapshot", &error),
        }
        Ok(())
    }

    async fn write_branch(&mut self, volume: &Volume, at: usize, random: &mut Random) -> Result<(), String> {
        let shared = Rc::clone(&self.shared);
        let branch = &mut self.past.branches[at];
        let opened =
            match shared.bounded("open writable snapshot", volume.open_writable(&branch.name)).await? {
                Ok(opened) => opened,
                Err(error) => {
                    shared.judge_error("open writable snapshot", &error);
                    return Ok(());
                }
            };
        let sectors = branch.model.len() as u64;
        for _ in 0..1 + random.below(4) {
            let most = BLOCKS_MAX * u64::from(self.script.block_bytes) / SECTOR_BYTES;
            let sector = random.below(sectors);
            let count = 1 + random.below((sectors - sector).min(most));
            let durable = random.chance(1, 2);
            let durability = if durable { Durability::Durable } else { Durability::OnFlush };
            let buf = shared.content(count);
            let digests: Vec<Digest> = buf.chunks_exact(SECTOR_BYTES as usize).map(digest).collect();
            let begun = branch.model.begin_write(sector as usize, digests.into_iter());
            let writing = opened.write(ByteOffset(sector * SECTOR_BYTES), buf, durability);
            let (written, _buf) = shared.bounded("write", writing).await?;
            branch.model.end_write(&begun, written.is_ok(), durable);
            match written {
                Ok(()) => shared.note("writable snapshot: written"),
                Err(error) => shared.judge_error("write", &error),
            }
        }
        if random.chance(1, 3) {
            let mark = branch.model.mark();
            match shared.bounded("flush", opened.flush()).await? {
                Ok(()) => branch.model.end_flush(mark),
                Err(error) => {
                    branch.model.fail_flush();
                    shared.judge_error("flush", &error);
                }
            }
        }
        branch.model.settle();
        if random.chance(1, 3) && branch.moments.len() < BRANCHES_MAX {
            self.past.names += 1;
            let name = format!("moment {}", self.past.names);
            let reading = shared.read_everything(&opened, sectors);
            let Ok(contents) = shared.bounded("read writable snapshot", reading).await? else {
                return Ok(());
            };
            match shared.bounded("take snapshot", opened.create_snapshot(&name)).await? {
                Ok(_) => branch.moments.push((name, contents)),
                Err(error) => shared.judge_error("take snapshot", &error),
            }
        }
        Ok(())
    }

    /// Every writable snapshot is there and holds what it was given.
    pub(super) async fn judge_branches(&mut self) -> Result<(), String> {
        let shared = Rc::clone(&self.shared);
        let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
        for branch in &mut self.past.branches {
            let opening = volume.open_writable(&branch.name);
            let opened = match shared.bounded("open writable snapshot", opening).await? {
                Ok(opened) => opened,
                Err(error) if matches!(error.reason(), Reason::NoSnapshot { .. }) => {
                    return Err(format!("{} is gone", branch.name));
                }
                Err(error) => {
                    shared.judge_error("open writable snapshot", &error);
                    return Ok(());
                }
            };
            let mark = branch.model.mark();
            let reading = shared.read_everything(&opened, branch.model.len() as u64);
            match shared.bounded("read writable snapshot", reading).await? {
                Ok(found) if std::mem::take(&mut branch.is_opened_anew) => {
                    let judged = branch.model.check_cut(&found);
                    judged.map_err(|what| format!("{}, opened anew: {what}", branch.name))?;
                    shared.note("writable snapshot: shown after a cut");
                }
                Ok(found) => {
                    let judged = branch.model.check_read(mark, 0, &found);
                    judged.map_err(|what| format!("{}: {what}", branch.name))?;
                    shared.note("writable snapshot: shown");
                }
                Err(error) => shared.judge_error("read writable snapshot", &error),
            }
            for (name, contents) in &branch.moments {
                let image = match shared.bounded("open image", volume.image_of(name)).await? {
                    Ok(image) => image,
                    Err(error) if matches!(error.reason(), Reason::NoSnapshot { .. }) => {
                        return Err(format!("{name} of {} is gone", branch.name));
                    }
                    Err(error) => {
                        shared.judge_error("open snapshot", &error);
                        return Ok(());
                    }
                };
                let reading = contents_of(&shared, &image, contents.len() as u64);
                match shared.bounded("read snapshot", reading).await? {
                    Ok(found) => {
                        if let Some(sector) = first_difference(contents, &found) {
                            return Err(format!(
                                "{name} of {} shows other bytes in sector {sector}",
                                branch.name
                            ));
                        }
                        shared.note("writable snapshot: its own snapshot shown");
                    }
                    Err(error) => shared.judge_error("read snapshot", &error),
                }
            }
        }
        Ok(())
    }
}
