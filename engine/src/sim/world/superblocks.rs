//! Superblocks in a play: making the volume anew, perhaps cut short, and tampering behind the engine's back.

use super::super::model::Model;
use super::super::script::Tampering;
use super::World;
use crate::error::Reason;
use crate::format::root::{Decoded as AtRoot, ROOT_BYTES, Root};
use crate::format::superblock::{COPY_OFFSETS, Decoded, SUPERBLOCK_BYTES, Superblock};
use crate::pool::superblock::{Verdict, judge};
use crate::store::Backend;
use crate::units::SECTOR_BYTES;
use crate::volume::{CreateOptions, OpenMode, Volume};

/// Where a volume stands after its making was perhaps cut short.
enum Made {
    Old,
    New,
    Nothing,
}

impl World<'_> {
    /// Makes the volume (anew), perhaps cut short; afterwards a volume is open.
    pub(super) async fn make(&mut self, cut_after: Option<u64>) -> Result<(), String> {
        self.settle().await?;
        let before = self.volume.take().map(|volume| volume.info().pool_id);
        self.shared.faults.striking.set(false);
        let options = CreateOptions {
            size_bytes: Some(self.script.volume_bytes),
            block_bytes: Some(self.script.block_bytes),
            region_bytes: self.script.region_bytes,
            segment_bytes: (self.script.backend != Backend::Direct).then_some(self.script.segment_bytes),
            checkpoint_bytes: Some(2 * u64::from(self.script.segment_bytes)),
            retention_bytes: self.script.retention_bytes,
            thin: self.script.thin,
            objects: self.script.objects,
            volatile_log: self.script.volatile_log_bytes.is_some(),
            ..CreateOptions::new(self.script.backend)
        };
        let device = self.open_disk().await?;
        let making = self.shared.context.spawn(async move { Volume::create(&device, options).await });
        if let Some(requests) = cut_after
            && self.until(requests, &making).await
        {
            self.shared.note("cut: while creating");
            making.abort();
            self.power_off();
            match self.what_is_there(before).await? {
                Made::Old => {
                    let found = self.read_all().await?;
                    let judged = self.shared.model.borrow_mut().check_cut(&found);
                    self.shared.faults.striking.set(true);
                    return judged.map_err(|what| format!("after a cut creation: {what}"));
                }
                Made::New => return self.begin_anew().await,
                Made::Nothing => return Box::pin(self.make(None)).await,
            }
        }
        match self.shared.bounded("create", making).await? {
            Some(Ok(_info)) => {}
            Some(Err(_error)) if self.shared.faults.strikes.get().any() => {
                return Box::pin(self.make(None)).await;
            }
            Some(Err(error)) => return Err(format!("create fails: {error}")),
            None => return Err("the creation vanished".to_string()),
        }
        self.open().await?;
        self.begin_anew().await
    }

    async fn what_is_there(&mut self, before: Option<[u8; 16]>) -> Result<Made, String> {
        self.note_row();
        let device = self.open_disk().await?;
        match Volume::open_with(device, OpenMode::ReadWrite, self.open_options()).await {
            Ok(volume) => {
                let info = volume.info();
                self.shared.data_offset.set(info.data_offset_bytes);
                self.shared.faults.lied_about_head.set(false);
                self.past.opened(&info);
                self.volume = Some(volume);
                Ok(if Some(info.pool_id) == before { Made::Old } else { Made::New })
            }
            Err(error) => match error.reason() {
                Reason::NoSuperblock | Reason::SuperblockDamaged => Ok(Made::Nothing),
                _ => Err(format!("after a cut creation: {error}")),
            },
        }
    }

    async fn begin_anew(&mut self) -> Result<(), String> {
        *self.shared.model.borrow_mut() = Model::new((self.script.volume_bytes / SECTOR_BYTES) as usize);
        let found = self.read_all().await?;
        let judged = self.shared.model.borrow_mut().check_cut(&found);
        self.shared.faults.striking.set(true);
        judged.map_err(|what| format!("a new volume: {what}"))
    }

    fn copies(&self) -> [[u8; SUPERBLOCK_BYTES]; 2] {
        COPY_OFFSETS.map(|offset| {
            let mut bytes = [0; SUPERBLOCK_BYTES];
            bytes.copy_from_slice(&self.shared.disk.peek(offset, SUPERBLOCK_BYTES));
            bytes
        })
    }

    /// The superblock, and what the two roots say that it names.
    pub(super) fn roots(&self) -> Option<(Superblock, [Option<Root>; 2])> {
        let (Verdict::Use(superblock) | Verdict::Repair(superblock, _)) = self.verdict() else { return None };
        let (first, second) = (superblock.roots.offset.get(), superblock.roots.bytes.get() / 2);
        let root = |at: u64| match self.shared.disk.peek(at, ROOT_BYTES).first_chunk() {
            Some(bytes) => match Root::decode(bytes, at) {
                AtRoot::Valid(root) => Some(root),
                _ => None,
            },
            None => None,
        };
        Some((superblock, [root(first), root(first + second)]))
    }

    /// The superblock, and the root that counts.
    pub(super) fn newest_root(&self) -> Option<(Superblock, Root)> {
        let (superblock, roots) = self.roots()?;
        Some((superblock, roots.into_iter().flatten().max_by_key(|root| root.generation.get())?))
    }

    fn verdict(&self) -> Verdict {
        let copies = self.copies();
        let [first, second] = [0, 1].map(|copy| Superblock::decode(&copies[copy], COPY_OFFSETS[copy]));
        judge(&first, &second)
    }

    pub(super) fn note_row(&self) {
        self.shared.note(match self.verdict() {
            Verdict::Use(_) => "recovery: use",
            Verdict::Repair(_, 0) => "recovery: repair first",
            Verdict::Repair(..) => "recovery: repair second",
            Verdict::NoSuperblock => "recovery: none",
            Verdict::Damaged => "recovery: damaged",
            Verdict::Conflict => "recovery: conflict",
            Verdict::UnknownVersion(_) => "recovery: unknown version",
        });
    }

    pub(super) async fn tamper(&mut self, tampering: Tampering) -> Result<(), String> {
        self.reopen(None).await?;
        self.shared.faults.striking.set(false);
        self.volume = None;
        let before = self.copies();
        let Verdict::Use(whole) = self.verdict() else {
            return Err(format!("an open volume has two whole superblocks: {:?}", self.verdict()));
        };
        self.apply(tampering, &before, whole);
        self.note_row();
        // What the one before left in flight has ended then.
        let device = self.open_disk().await?;
        let hash = self.shared.disk.hash();
        let opened = Volume::open(device, OpenMode::ReadWrite).await;
        let expected: fn(&Reason) -> bool = match tampering {
            Tampering::DamageOne { .. } => {
                drop(opened.map_err(|error| format!("one damaged superblock: {error}"))?);
                if !matches!(self.verdict(), Verdict::Use(_)) {
                    return Err("a damaged superblock was not repaired".to_string());
                }
                self.open().await?;
                self.shared.faults.striking.set(true);
                return Ok(());
            }
            Tampering::DamageBoth => |reason| *reason == Reason::SuperblockDamaged,
            Tampering::Erase => |reason| *reason == Reason::NoSuperblock,
            Tampering::Conflict => |reason| *reason == Reason::SuperblockConflict,
            Tampering::UnknownVersion => |reason| matches!(reason, Reason::UnknownVersion { .. }),
            Tampering::UnknownFeature => {
                self.shared.note("refused: unknown feature");
                |reason| matches!(reason, Reason::UnknownFeatures { .. })
            }
        };
        match opened {
            Err(error) if expected(error.reason()) => {}
            other => return Err(format!("{tampering:?} ended with {:?}", other.map(|volume| volume.info()))),
        }
        if self.shared.disk.hash() != hash {
            return Err(format!("{tampering:?} was refused, and yet something was written"));
        }
        for (offset, bytes) in COPY_OFFSETS.into_iter().zip(before) {
            self.shared.disk.poke(offset, &bytes);
        }
        self.open().await?;
        self.shared.faults.striking.set(true);
        Ok(())
    }

    fn apply(&self, tampering: Tampering, before: &[[u8; SUPERBLOCK_BYTES]; 2], whole: Superblock) {
        let poke = |copy: usize, bytes: &[u8]| self.shared.disk.poke(COPY_OFFSETS[copy], bytes);
        let damaged = |copy: usize, byte: usize| {
            let mut bytes = before[copy];
            bytes[byte] ^= 0x10;
            bytes
        };
        match tampering {
            Tampering::DamageOne { copy, byte } => poke(copy, &damaged(copy, byte)),
            Tampering::DamageBoth => [0, 1].into_iter().for_each(|copy| poke(copy, &damaged(copy, 700))),
            Tampering::Erase => [0, 1].into_iter().for_each(|copy| poke(copy, &[0; SUPERBLOCK_BYTES])),
            Tampering::Conflict => {
                let mut other = whole;
                other.volume_id[0] ^= 1;
                poke(1, &other.encode(COPY_OFFSETS[1]));
            }
            Tampering::UnknownVersion => {
                let mut other = whole;
                other.version = 77.into();
                poke(0, &other.encode(COPY_OFFSETS[0]));
            }
            Tampering::UnknownFeature => {
                let mut other = whole;
                other.features_incompatible = (1 << 40).into();
                for (copy, offset) in COPY_OFFSETS.into_iter().enumerate() {
                    poke(copy, &other.encode(offset));
                }
            }
        }
        debug_assert!(
            !matches!(self.verdict(), Verdict::Use(now) if Decoded::Valid(now) == Decoded::Valid(whole))
        );
    }
}
