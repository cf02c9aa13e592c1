//! What a seed means: the volume's shape and a list of steps.

use crate::object::ObjectKind;
use crate::pool::layout::{Fill, Layout, Parts};
use crate::pool::snapshots::SNAPSHOTS_MIN;
use crate::runtime::Random;
use crate::store::Backend;
use crate::store::log::{ApplyMode, ApplyOptions, leases};

/// Operations of a script; each seed has at least these.
pub const OPERATIONS_MIN: u64 = 1000;
/// Power cuts of a script at least.
pub const CUTS_MIN: u64 = 5;
/// Faults armed by a script at least; as many take effect, because each waits for a request it fits.
pub const FAULTS_MIN: u64 = 5;

/// Blocks by which a roomy disk is larger: more than are superseded while an image is held open.
const ROOM_BLOCKS: u64 = 4096;
/// Of the linear volumes on roomy disks, one in so many is thin.
const THIN_EVERY: u64 = 4;
/// Of so many plays that look back, two go back.
const GO_BACK_OF: u64 = 5;
/// Of so many roomy plays of a log, three take snapshots.
const SNAPSHOTS_OF: u64 = 7;
/// Of so many plays, one writes them so many times as often as others.
const OFTEN_OF: u64 = 8;
const OFTEN: u64 = 8;
/// Room for what has names.
const SNAPSHOT_VOLUMES: u64 = 5;
/// Room for what writable snapshots are given.
const BRANCH_VOLUMES: u64 = 4;
/// Room for what has names or is open, beside a base.
const BASE_VOLUMES: u64 = 10;
/// There is room for so many linear objects, where snapshots have them.
const OBJECTS_MIN: u64 = 5;
/// A roomy disk keeps so many times the volume of the past at most.
const PAST_VOLUMES_MAX: u64 = 16;

/// A script: everything that happens in a run, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Seeds the runtime, the disk and the contents.
    pub seed: u64,
    /// The disk's logical block.
    pub logical_block_bytes: u32,
    /// The volume's block.
    pub block_bytes: u32,
    /// The volume's region.
    pub region_bytes: u32,
    /// The volume's size.
    pub volume_bytes: u64,
    /// How the volume is kept.
    pub backend: Backend,
    /// The log's segment, in bytes.
    pub segment_bytes: u32,
    /// Bytes of the past that a log keeps.
    pub retention_bytes: u64,
    /// Memory for a log's index, in bytes.
    pub index_bytes: usize,
    /// How the log is applied, where there is a linear volume.
    pub apply: ApplyOptions,
    /// Memory for a volatile log, in bytes, where there is one.
    pub volatile_log_bytes: Option<usize>,
    /// The disk has room for more of the past than is to be kept, so that none of it is given up for room.
    pub is_roomy: bool,
    /// A linear volume takes space when a block is first applied.
    pub thin: bool,
    /// What takes what snapshots of a volume with a base need.
    pub objects: ObjectKind,
    /// Size of the disk.
    pub device_bytes: u64,
    /// Operations in flight at most.
    pub depth: usize,
    /// What happens.
    pub steps: Vec<Step>,
}

/// One step. Offsets and lengths count sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write, whole blocks or parts of them.
    Write {
        /// First sector.
        sector: u64,
        /// Sectors.
        count: u64,
        /// Durable when complete.
        durable: bool,
    },
    /// Write, and drop its future after this long.
    CancelledWrite {
        /// First sector.
        sector: u64,
        /// Sectors.
        count: u64,
        /// Nanoseconds until the future is dropped.
        after_ns: u64,
    },
    /// Read and judge.
    Read {
        /// First sector.
        sector: u64,
        /// Sectors.
        count: u64,
    },
    /// Flush.
    Flush,
    /// Flush, and drop its future after this long.
    CancelledFlush {
        /// Nanoseconds until the future is dropped.
        after_ns: u64,
    },
    /// Discard or write zeroes.
    Zero {
        /// First sector.
        sector: u64,
        /// Sectors.
        count: u64,
        /// Discard rather than write zeroes.
        discard: bool,
    },
    /// Apply everything to the linear volume; nothing where there is none.
    Apply,
    /// Wait until nothing is in flight, pin the base, write, judge its bytes on the disk, accept (linear alone).
    Pin,
    /// Let this much time pass.
    Pause {
        /// Nanoseconds.
        nanoseconds: u64,
    },
    /// Wait until nothing is in flight.
    Settle,
    /// Arm a fault for the next request it fits.
    Arm(ArmedFault),
    /// Cut power while serving, recover, judge everything. `again_after`: cut once more during recovery, when
    /// the disk has seen this many requests of it.
    Cut {
        /// Requests until the second cut.
        again_after: Option<u64>,
    },
    /// Close and open again; `cut_after`: cut power when the disk has seen this many requests of the closing.
    Reopen {
        /// Requests until the cut.
        cut_after: Option<u64>,
    },
    /// Make the volume anew; `cut_after`: cut power when the disk has seen this many requests of it.
    Recreate {
        /// Requests until the cut.
        cut_after: Option<u64>,
    },
    /// Close, damage the superblocks, see what opening says, mend them, open.
    Tamper(Tampering),
    /// Wait until nothing is in flight, and note the moment with all of its contents (log alone).
    Remember {
        /// Hold an image of it open.
        keep: bool,
    },
    /// Open an image of a moment that was noted, judge all of it, and the images that are held open.
    Recall {
        /// Chooses the moment.
        which: u64,
    },
    /// Wait until nothing is in flight, and go back to a moment that was noted.
    GoBack {
        /// Chooses the moment.
        which: u64,
    },
    /// Take a snapshot, delete one where there are many, and judge all (log alone).
    TakeSnapshot {
        /// Chooses the one that goes.
        which: u64,
    },
    /// Wait until nothing is in flight, give the snapshots up before one of them, and fold up to it (overlay alone).
    Fold {
        /// Chooses the one that stays oldest; behind the last: none stays, and all is folded.
        which: u64,
    },
    /// Wait until nothing is in flight, and make a writable snapshot, write one or delete one (where there are snapshots).
    Branch {
        /// Chooses what, and with which.
        which: u64,
    },
    /// Cut power, damage the last batch that was promised, see that opening refuses, mend it, recover (log alone).
    DamageLog {
        /// Chooses the byte.
        byte: u64,
    },
}

/// A fault and the requests it fits. Places and bytes are drawn when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArmedFault {
    /// EIO on a read.
    FailRead,
    /// EIO or ENOSPC on a write.
    FailWrite {
        /// ENOSPC instead of EIO.
        no_space: bool,
    },
    /// EIO on a flush.
    FailFlush,
    /// A read or write of more than a sector moves less.
    Short {
        /// Short by a piece that is no whole sector.
        ragged: bool,
    },
    /// Any request takes long.
    Stall,
    /// Any request is held for a while.
    Hold,
    /// A write is dropped.
    Drop,
    /// A read or write is changed.
    Corrupt {
        /// On a read.
        read: bool,
    },
    /// A write goes elsewhere.
    Misdirect,
}

/// What is done to the superblocks behind the engine's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    /// One byte of one copy is changed: it opens and is repaired.
    DamageOne {
        /// Which copy.
        copy: usize,
        /// Which byte.
        byte: usize,
    },
    /// Both copies are changed: refused.
    DamageBoth,
    /// Both are wiped: refused.
    Erase,
    /// Two different ones of the same generation: refused.
    Conflict,
    /// A newer version: refused.
    UnknownVersion,
    /// A feature that is not known: refused.
    UnknownFeature,
}

impl Script {
    /// The script of a seed, for this backend.
    pub fn of_backend(seed: u64, backend: Backend) -> Self {
        let mut script = Self::from_seed(seed);
        match backend {
            Backend::Direct if seed.is_multiple_of(4) => {
                let random = &mut Random::from_seed(seed ^ 0x701A_711E_0000_0001);
                script.volatile_log_bytes = Some(random.below(script.volume_bytes) as usize);
            }
            Backend::Direct => {}
            _ => script.make_log(backend),
        }
        script
    }

    /// The same steps on a log, in a pool that is only just large enough.
    fn make_log(&mut self, backend: Backend) {
        let random = &mut Random::from_seed(self.seed ^ 0x10C5_7E11_AB1E_0001);
        self.backend = backend;
        self.segment_bytes = ((self.block_bytes * 8) << random.below(3)).max(16 << 10);
        self.retention_bytes = if random.chance(1, 2) { 0 } else { random.below(self.volume_bytes) };
        self.index_bytes = if random.chance(1, 2) { 1 << 20 } else { 16 << 10 };
        let (block, segment) = (u64::from(self.block_bytes), u64::from(self.segment_bytes));
        let fill = match backend {
            Backend::Linear => Fill::Whole,
            backend if backend.has_base() => Fill::Beside,
            _ => Fill::Cleaned,
        };
        if backend.has_base() {
            self.retention_bytes = 0;
        }
        let room = |device_bytes| {
            let (size, region) = (Some(self.volume_bytes), self.region_bytes.into());
            let parts = Parts {
                block_bytes: block,
                segment_bytes: segment,
                leases: leases(2 * segment, segment),
                snapshots_max: SNAPSHOTS_MIN,
                segments_apart: 0,
            };
            Layout::plan_log(device_bytes, size, region, parts, fill)
        };
        let mut device_bytes = 2 << 20;
        while room(device_bytes).is_err() {
            device_bytes += 16 << 10;
        }
        let past_bytes = 2 * self.retention_bytes;
        self.device_bytes = device_bytes + past_bytes + random.below(4) * segment;
        if matches!(backend, Backend::Linear | Backend::LoggedCow) {
            self.apply = ApplyOptions {
                mode: if random.chance(1, 2) { ApplyMode::Absorb } else { ApplyMode::Strict },
                // Nobody would apply what a full log waits for.
                automatic: true,
                at_open: random.chance(1, 4),
            };
            for step in self.steps.iter_mut().filter(|step| matches!(step, Step::Pause { .. } | Step::Settle))
            {
                if random.chance(1, 2) {
                    *step = Step::Apply;
                }
            }
        }
        // What a disk lies about a log is told, not survived: other faults take the place of its lies.
        for step in &mut self.steps {
            while let Step::Arm(ArmedFault::Drop | ArmedFault::Corrupt { .. } | ArmedFault::Misdirect) = step
            {
                *step = Step::Arm(armed_fault(random));
            }
        }
        if backend.has_base() {
            self.snapshots_over_base(random);
            return;
        }
        if backend == Backend::Linear {
            let at = random.below(self.steps.len() as u64 + 1) as usize;
            self.steps.insert(at, Step::Pin);
        }
        // The others play on without looking back, since opening an image makes a checkpoint.
        if self.seed % 3 != 1 {
            self.look_back(random);
            if self.seed % GO_BACK_OF < 2 {
                self.go_back();
            }
            // What has a name takes room.
            if self.is_roomy && backend == Backend::Log && self.seed % SNAPSHOTS_OF < 3 {
                self.take_snapshots();
            }
        }
        // Nothing is drawn for it, so that the script of a seed stays what it was. Where room is short, a thin
        // volume stands still until the pool is grown, which no play does.
        self.thin = backend == Backend::Linear && self.is_roomy && self.seed % THIN_EVERY == 1;
    }

    /// Moments are kept where they have names or somebody has them open.
    fn snapshots_over_base(&mut self, random: &mut Random) {
        self.is_roomy = true;
        self.device_bytes += ROOM_BLOCKS * u64::from(self.block_bytes) + BASE_VOLUMES * self.volume_bytes;
        let taken = (0..6 + random.below(12)).map(|_| 0);
        let opened = (0..3 + random.below(4)).map(|_| 1);
        let looked = (0..3 + random.below(4)).map(|_| 2);
        let goes_back = self.backend != Backend::Cow;
        let back = (0..if goes_back { random.below(4) } else { 0 }).map(|_| 3);
        let folded = (0..if self.backend == Backend::Overlay { 1 + random.below(4) } else { 0 }).map(|_| 4);
        for what in taken.chain(opened).chain(looked).chain(back).chain(folded) {
            let step = match what {
                0 => Step::TakeSnapshot { which: random.next_u64() },
                1 => Step::Remember { keep: true },
                2 => Step::Recall { which: random.next_u64() },
                3 => Step::GoBack { which: random.next_u64() },
                _ => Step::Fold { which: random.next_u64() },
            };
            let at = random.below(self.steps.len() as u64 + 1) as usize;
            self.steps.insert(at, step);
        }
        if self.backend == Backend::Cow {
            self.go_back();
        }
        self.write_snapshots();
        self.place_in_objects();
    }

    /// In some of these, snapshots have linear objects. What is drawn is its own, as below. There is not always room for
    /// one more.
    fn place_in_objects(&mut self) {
        let random = &mut Random::from_seed(self.seed ^ 0x0B1E_C75A_0000_0001);
        if random.chance(2, 5) {
            self.objects = ObjectKind::Linear;
            let object_bytes = self.volume_bytes.next_multiple_of(self.segment_bytes.into());
            self.device_bytes += (OBJECTS_MIN + random.below(6)) * object_bytes;
        }
    }

    /// Half of the plays with snapshots write some of them, some of these do so often. Its own numbers are drawn, so that
    /// the others stay what they were.
    fn write_snapshots(&mut self) {
        if !self.seed.is_multiple_of(2) {
            return;
        }
        let random = &mut Random::from_seed(self.seed ^ 0xB2A4_C400_0000_0001);
        self.device_bytes += BRANCH_VOLUMES * self.volume_bytes;
        let times = if self.seed % OFTEN_OF == 4 { OFTEN } else { 1 };
        for _ in 0..times * (6 + random.below(10)) {
            let at = random.below(self.steps.len() as u64 + 1) as usize;
            self.steps.insert(at, Step::Branch { which: random.next_u64() });
        }
    }

    fn look_back(&mut self, random: &mut Random) {
        self.is_roomy = random.chance(2, 3);
        if self.is_roomy {
            self.retention_bytes = random.below(PAST_VOLUMES_MAX * self.volume_bytes);
            self.device_bytes += ROOM_BLOCKS * u64::from(self.block_bytes) + 2 * self.retention_bytes;
        }
        let remember = (0..4 + random.below(8)).map(|_| 0);
        let recall = (0..8 + random.below(16)).map(|_| 1);
        for what in remember.chain(recall).chain([2]) {
            let step = match what {
                // What is held open takes room.
                0 => {
                    // An image that stays open holds applying up, and then the log.
                    let may_keep = self.is_roomy && self.backend == Backend::Log;
                    Step::Remember { keep: may_keep && random.chance(1, 2) }
                }
                1 => Step::Recall { which: random.next_u64() },
                _ => Step::DamageLog { byte: random.next_u64() },
            };
            let at = random.below(self.steps.len() as u64 + 1) as usize;
            self.steps.insert(at, step);
        }
    }

    /// Its own numbers are drawn, so that the other scripts stay what they were.
    fn go_back(&mut self) {
        let random = &mut Random::from_seed(self.seed ^ 0x6060_BACC_0000_0001);
        for _ in 0..2 + random.below(4) {
            let at = random.below(self.steps.len() as u64 + 1) as usize;
            self.steps.insert(at, Step::GoBack { which: random.next_u64() });
            // And back from there, where there is nothing between.
            if random.chance(1, 4) {
                self.steps.insert(at, Step::GoBack { which: random.next_u64() });
            }
        }
    }

    fn take_snapshots(&mut self) {
        let random = &mut Random::from_seed(self.seed ^ 0x5A45_0000_0000_0001);
        self.device_bytes += SNAPSHOT_VOLUMES * self.volume_bytes;
        for _ in 0..5 + random.below(6) {
            let at = random.below(self.steps.len() as u64 + 1) as usize;
            self.steps.insert(at, Step::TakeSnapshot { which: random.next_u64() });
        }
        self.write_snapshots();
    }

    /// The script of a seed, for the `direct` backend.
    pub fn from_seed(seed: u64) -> Self {
        let random = &mut Random::from_seed(seed ^ 0x5C81_97AA_0D0B_E5C1);
        let logical_block_bytes = if random.chance(1, 2) { 512 } else { 4096 };
        let block_bytes = (logical_block_bytes << random.below(3)).min(16384) as u32;
        let region_bytes = block_bytes << random.below(3);
        let regions = (96 << 10) / u64::from(region_bytes) + 1 + random.below(4);
        let mut script = Self {
            seed,
            logical_block_bytes: logical_block_bytes as u32,
            block_bytes,
            region_bytes,
            volume_bytes: regions * u64::from(region_bytes),
            backend: Backend::Direct,
            segment_bytes: 0,
            retention_bytes: 0,
            index_bytes: 0,
            apply: ApplyOptions::default(),
            volatile_log_bytes: None,
            is_roomy: false,
            thin: false,
            objects: ObjectKind::Mapped,
            device_bytes: 0,
            depth: 1 + random.below(8) as usize,
            steps: Vec::new(),
        };
        let layout = Layout::plan(64 << 20, Some(script.volume_bytes), script.region_bytes.into());
        script.device_bytes = layout.map_or(64 << 20, |layout| layout.data.end() + (64 << 10));
        let operations = OPERATIONS_MIN + random.below(200);
        let cuts = CUTS_MIN + random.below(5);
        let faults = FAULTS_MIN + 5 + random.below(10);
        let mut begun = 0;
        while begun < operations {
            let step = script.operation(random);
            begun += u64::from(!matches!(step, Step::Pause { .. } | Step::Settle));
            script.steps.push(step);
        }
        let armed: Vec<Step> = (0..faults).map(|_| Step::Arm(armed_fault(random))).collect();
        let cut: Vec<Step> = (0..cuts).map(|_| a_cut(random)).collect();
        let others = [
            Step::Reopen { cut_after: None },
            Step::Reopen { cut_after: Some(random.below(8)) },
            Step::Recreate { cut_after: Some(random.below(12)) },
            Step::Tamper(tampering(random)),
            Step::Tamper(tampering(random)),
        ];
        for step in armed.into_iter().chain(cut).chain(others) {
            let at = random.below(script.steps.len() as u64 + 1) as usize;
            script.steps.insert(at, step);
        }
        script
    }

    /// This script with only the steps of these indices.
    pub fn only(&self, indices: &[usize]) -> Self {
        let steps = indices.iter().filter_map(|index| self.steps.get(*index).copied()).collect();
        Self { steps, ..self.clone() }
    }

    fn operation(&self, random: &mut Random) -> Step {
        let (sector, count) = self.range(random);
        match random.below(100) {
            0..40 => Step::Write { sector, count, durable: random.chance(1, 4) },
            40..45 => Step::CancelledWrite { sector, count, after_ns: random.below(400_000) },
            45..72 => Step::Read { sector, count },
            72..82 => Step::Flush,
            82..84 => Step::CancelledFlush { after_ns: random.below(2_000_000) },
            84..94 => Step::Zero { sector, count, discard: random.chance(1, 2) },
            94..98 => Step::Pause { nanoseconds: random.below(3_000_000) },
            _ => Step::Settle,
        }
    }

    /// A range that often meets others: half of them lie in the first eighth of the volume.
    fn range(&self, random: &mut Random) -> (u64, u64) {
        let sectors = self.volume_bytes / 512;
        let block = u64::from(self.block_bytes) / 512;
        let area = if random.chance(1, 2) { (sectors / 8).max(block) } else { sectors };
        if random.chance(1, 2) {
            let first = random.below(area.div_ceil(block)) * block;
            let count = (1 + random.below(4)) * block;
            return (first.min(sectors - block), count.min(sectors - first.min(sectors - block)));
        }
        let first = random.below(area);
        (first, (1 + random.below(2 * block + 3)).min(sectors - first))
    }
}

fn armed_fault(random: &mut Random) -> ArmedFault {
    match random.below(12) {
        0 => ArmedFault::FailRead,
        1 | 2 => ArmedFault::FailWrite { no_space: random.chance(1, 2) },
        3 => ArmedFault::FailFlush,
        4 | 5 => ArmedFault::Short { ragged: random.chance(1, 4) },
        6 => ArmedFault::Stall,
        7 | 8 => ArmedFault::Hold,
        9 => ArmedFault::Drop,
        10 => ArmedFault::Corrupt { read: random.chance(1, 2) },
        _ => ArmedFault::Misdirect,
    }
}

fn a_cut(random: &mut Random) -> Step {
    Step::Cut { again_after: random.chance(1, 3).then(|| random.below(10)) }
}

fn tampering(random: &mut Random) -> Tampering {
    match random.below(7) {
        0 | 1 => Tampering::DamageOne { copy: random.below(2) as usize, byte: random.below(4096) as usize },
        2 => Tampering::DamageBoth,
        3 => Tampering::Erase,
        4 => Tampering::Conflict,
        5 => Tampering::UnknownVersion,
        _ => Tampering::UnknownFeature,
    }
}
