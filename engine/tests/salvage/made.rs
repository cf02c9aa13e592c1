//! Pools on simulated disks, and what their images were after every write: a model that asks the engine nothing but
//! the number of the last sequence.

use std::cell::RefCell;
use std::collections::BTreeMap;

use icecore::check::{Moment, Salvage, SalvageOptions, SalvageReport, Status, check};
use icecore::device::Device;
use icecore::device::simulated::{Fault, SimulatedDisk};
use icecore::error::Error;
use icecore::object::ObjectKind;
use icecore::runtime::sim::Calendar;
use icecore::runtime::{Context, OperationKind, Random, Runtime};
use icecore::store::Backend;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{ApplyOptions, CreateOptions, Durability, OpenMode, OpenOptions, Volume};

pub const BLOCK: u64 = 4096;

/// What each block holds: the number that its content is made of; 0 reads as zero.
pub type Picture = Vec<u64>;

/// A pool, closed or cut short.
pub struct Made {
    pub name: &'static str,
    pub runtime: Runtime,
    calendar: Calendar,
    pub disk: SimulatedDisk,
    pub device_bytes: u64,
    /// The image after every sequence.
    pub pictures: BTreeMap<u64, Picture>,
    pub names: BTreeMap<&'static str, u64>,
    /// By name: the image of a snapshot, and what a writable snapshot or a further volume is now.
    pub named: BTreeMap<&'static str, Picture>,
    /// The image after every write, and the sequence then: in a base, writes have none.
    history: Vec<(u64, Picture)>,
    /// The same of what has been cloned or made.
    histories: BTreeMap<&'static str, Vec<(u64, Picture)>>,
    pub backend: Backend,
    /// What lay there before the damage.
    pub whole: RefCell<Vec<u8>>,
    random: Random,
}

/// The bytes that a number stands for.
pub fn content(number: u64) -> Vec<u8> {
    if number == 0 { vec![0; BLOCK as usize] } else { number.to_le_bytes().repeat(BLOCK as usize / 8) }
}

async fn open(disk: &SimulatedDisk, context: &Context) -> Device {
    loop {
        match disk.open(context) {
            Ok(device) => return device,
            Err(_busy) => context.sleep(100_000).await,
        }
    }
}

/// A log of so many blocks that keeps so many superseded ones.
pub fn log(blocks: u64, kept: u64) -> CreateOptions {
    CreateOptions {
        size_bytes: Some(blocks * BLOCK),
        region_bytes: BLOCK as u32,
        segment_bytes: Some(64 << 10),
        checkpoint_bytes: Some(128 << 10),
        retention_bytes: kept * BLOCK,
        ..CreateOptions::new(Backend::Log)
    }
}

impl Made {
    pub fn new(name: &'static str, device_bytes: u64, options: CreateOptions) -> Self {
        let (runtime, calendar) = Runtime::simulated(11).unwrap();
        let disk = SimulatedDisk::new(&calendar, 11, name, device_bytes, BLOCK as u32);
        let made = Self {
            name,
            runtime,
            calendar,
            disk,
            device_bytes,
            pictures: BTreeMap::new(),
            names: BTreeMap::new(),
            named: BTreeMap::new(),
            history: Vec::new(),
            histories: BTreeMap::new(),
            backend: options.backend,
            whole: RefCell::default(),
            random: Random::from_seed(11),
        };
        made.create(options)
    }

    /// Makes a volume, whatever was there.
    pub fn create(mut self, options: CreateOptions) -> Self {
        let context = self.runtime.context();
        self.runtime
            .block_on(async {
                Volume::create(&open(&self.disk, context).await, CreateOptions { force: true, ..options })
                    .await
            })
            .unwrap();
        let blocks = options.size_bytes.unwrap() / BLOCK;
        self.pictures = BTreeMap::from([(0, vec![0; blocks as usize])]);
        self.history = vec![(0, self.pictures[&0].clone())];
        self.names.clear();
        self.named.clear();
        self
    }

    pub fn last(&self) -> &Picture {
        self.pictures.last_key_value().unwrap().1
    }

    /// Opens it, does something, and closes it or loses power.
    pub fn session(&mut self, closes: bool, work: impl AsyncFnOnce(&mut Self, &Volume)) {
        let (disk, context) = (self.disk.clone(), self.runtime.context().clone());
        let calendar = self.calendar.clone();
        let volume = self.runtime.block_on(async {
            let apply = ApplyOptions { automatic: false, ..ApplyOptions::default() };
            let options = OpenOptions { apply, refuse_when_full: false, ..OpenOptions::default() };
            Volume::open_with(open(&disk, &context).await, OpenMode::ReadWrite, options).await.unwrap()
        });
        let (runtime, _) = Runtime::simulated(1).unwrap();
        let own = std::mem::replace(&mut self.runtime, runtime);
        own.block_on(async {
            work(self, &volume).await;
            match closes {
                true => volume.close().await.unwrap(),
                false => {
                    drop(volume);
                    disk.cut_power();
                }
            }
        });
        drop(own.block_on(open(&disk, own.context())));
        self.runtime = own;
        drop(calendar);
    }

    fn note(&mut self, volume: &Volume, change: impl FnOnce(&mut Picture)) {
        let mut picture = self.last().clone();
        change(&mut picture);
        let sequence = if volume.info().backend == Backend::Direct {
            self.pictures.len() as u64
        } else {
            volume.info().sequence.0
        };
        self.history.push((sequence, picture.clone()));
        self.pictures.insert(sequence, picture);
    }

    pub async fn write(&mut self, volume: &Volume, first: u64, blocks: u64, durability: Durability) {
        let numbers: Vec<u64> = (0..blocks).map(|_| self.random.next_u64() | 1).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| content(*number)).collect();
        let buf = volume.context().buffers().copy_of(&bytes).unwrap();
        volume.write(ByteOffset(first * BLOCK), buf, durability).await.0.unwrap();
        self.note(volume, |picture| picture[first as usize..][..blocks as usize].copy_from_slice(&numbers));
    }

    pub async fn zero(&mut self, volume: &Volume, first: u64, blocks: u64) {
        volume.write_zeroes(ByteOffset(first * BLOCK), blocks * BLOCK).await.unwrap();
        self.note(volume, |picture| picture[first as usize..][..blocks as usize].fill(0));
    }

    pub async fn go_back(&mut self, volume: &Volume, to: u64) {
        volume.rollback(Seq(to)).await.unwrap();
        let picture = self.pictures[&to].clone();
        self.note(volume, |now| *now = picture);
    }

    pub async fn snapshot(&mut self, volume: &Volume, name: &'static str) {
        volume.create_snapshot(name).await.unwrap();
        self.names.insert(name, volume.snapshot(name).unwrap().sequence.0);
        self.named.insert(name, self.last().clone());
    }

    /// A snapshot of a writable one, or of a further volume.
    pub async fn snapshot_of(&mut self, branch: &Volume, of: &str, name: &'static str) {
        branch.create_snapshot(name).await.unwrap();
        self.named.insert(name, self.named[of].clone());
    }

    pub async fn clone_of(&mut self, volume: &Volume, of: &str, name: &'static str) -> Volume {
        volume.clone_snapshot(of, name).await.unwrap();
        self.named.insert(name, self.named[of].clone());
        self.histories.insert(name, vec![(0, self.named[of].clone())]);
        volume.open_writable(name).await.unwrap()
    }

    pub async fn further(&mut self, volume: &Volume, name: &'static str, blocks: u64) -> Volume {
        volume.create_volume(name, blocks * BLOCK).await.unwrap();
        self.named.insert(name, vec![0; blocks as usize]);
        self.histories.insert(name, vec![(0, self.named[name].clone())]);
        volume.open_volume(name).await.unwrap()
    }

    /// Random writes and zeroes to a writable snapshot, or a further volume.
    pub async fn work_in(&mut self, branch: &Volume, name: &'static str, rounds: u64) {
        let blocks = branch.size_bytes() / BLOCK;
        for round in 0..rounds {
            let (first, number) = (self.random.below(blocks), self.random.next_u64() | 1);
            let number = if round % 9 == 4 { 0 } else { number };
            if number == 0 {
                branch.write_zeroes(ByteOffset(first * BLOCK), BLOCK).await.unwrap();
            } else {
                let buf = branch.context().buffers().copy_of(&content(number)).unwrap();
                branch.write(ByteOffset(first * BLOCK), buf, Durability::Durable).await.0.unwrap();
            }
            self.named.get_mut(name).unwrap()[first as usize] = number;
            let then = (branch.info().sequence.0, self.named[name].clone());
            self.histories.get_mut(name).unwrap().push(then);
        }
        branch.flush().await.unwrap();
    }

    /// Random writes and zeroes; the last one is durable.
    pub async fn work(&mut self, volume: &Volume, rounds: u64) {
        let blocks = volume.size_bytes() / BLOCK;
        for round in 0..rounds {
            let (first, count) = (self.random.below(blocks - 2), 1 + self.random.below(2));
            let durable = round % 8 == 0 || round + 1 == rounds;
            let durability = if durable { Durability::Durable } else { Durability::OnFlush };
            if round % 13 == 5 {
                let first = self.random.below(blocks - 2);
                self.zero(volume, first, 2).await;
            }
            self.write(volume, first, count, durability).await;
            if volume.info().backend == Backend::Linear && round % 50 == 49 {
                volume.apply(None).await.unwrap();
            }
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.disk.peek(0, self.device_bytes as usize)
    }

    /// Puts bytes on the disk where it has others.
    pub fn put(&self, to: &[u8]) {
        for (at, (old, new)) in (0..).step_by(4096).zip(self.bytes().chunks(4096).zip(to.chunks(4096))) {
            if old != new {
                self.disk.poke(at, new);
            }
        }
    }

    /// Reads of these sectors fail from now on.
    pub fn break_sectors(&self, sectors: Vec<u64>) {
        self.disk.set_plan(Box::new(move |request, _| {
            let range = request.offset..request.offset + request.length;
            let covers = sectors.iter().any(|sector| range.contains(sector));
            (covers && request.kind == OperationKind::Read).then_some(Fault::Fail(libc::EIO))
        }));
    }

    pub fn is_clean(&self) -> bool {
        let device = self.disk.open(self.runtime.context()).unwrap();
        self.runtime.block_on(check(&device, &mut |_| ())).unwrap().damage == 0
    }

    /// What salvaging says, and the image that it writes; the pool is as it was.
    pub fn try_salvage(&self, options: &SalvageOptions) -> Result<(SalvageReport, Vec<u8>), Error> {
        let context = self.runtime.context();
        let device = self.disk.open(context).unwrap();
        self.disk.start_recording();
        let out_bytes = 1 << 20;
        let out = SimulatedDisk::new(&self.calendar, 5, "out", out_bytes, BLOCK as u32);
        // What lay there before must not be taken for the image.
        (0..out_bytes).step_by(4096).for_each(|at| out.poke(at, &[0xEE; 4096]));
        let report = self.runtime.block_on(async {
            let mut progress = |_| ();
            let salvage = Salvage::prepare(&device, options.clone(), &mut progress).await?;
            salvage.write(&out.open(context).unwrap(), false).await
        })?;
        let only_reads = self.disk.recorded().iter().all(|one| one.kind == OperationKind::Read);
        assert!(only_reads, "{}: nothing is written", self.name);
        let image = out.peek(0, report.size_bytes as usize);
        let behind = out.peek(report.size_bytes, (out_bytes - report.size_bytes) as usize);
        assert!(behind.iter().all(|byte| *byte == 0xEE), "nothing behind the image is touched");
        Ok((report, image))
    }

    /// As [`Made::try_salvage`]; what is said to be certain is what the model says it was at that moment, what is not
    /// is zero, and the list says what each block is.
    #[track_caller]
    pub fn salvage(&self, options: &SalvageOptions) -> SalvageReport {
        let (report, image) = self.try_salvage(options).unwrap();
        self.hold(options, &report, &image);
        report
    }

    /// What the image was, and what it was after each write that had no sequence of its own since then.
    fn truth(&self, options: &SalvageOptions, at: u64) -> (&Picture, &[(u64, Picture)]) {
        if let Moment::Snapshot(name) = &options.moment {
            let history = self.histories.get(name.as_str());
            let then = history.and_then(|history| history.iter().rfind(|(sequence, _)| *sequence <= at));
            return (then.map_or(&self.named[name.as_str()], |(_, picture)| picture), &[]);
        }
        match self.backend {
            Backend::Cow if options.moment == Moment::Newest => (self.last(), &[]),
            Backend::Overlay if options.moment == Moment::Newest => {
                let then = self.history.iter().rposition(|(sequence, _)| *sequence <= at).unwrap();
                (&self.history[then].1, &self.history[then..])
            }
            _ => (self.pictures.range(..=at).next_back().unwrap().1, &[]),
        }
    }

    /// Whether damage has put these bytes somewhere.
    fn is_hurt(&self, bytes: &[u8]) -> bool {
        let (now, whole) = (self.bytes(), self.whole.borrow());
        now.chunks(4096).zip(whole.chunks(4096)).any(|(now, whole)| now == bytes && whole != bytes)
    }

    #[track_caller]
    pub fn hold(&self, options: &SalvageOptions, report: &SalvageReport, image: &[u8]) {
        let at = if report.has_checksums { report.sequence } else { u64::MAX };
        let (picture, later) = self.truth(options, at);
        let mut next = 0;
        for stretch in &report.stretches {
            assert_eq!(stretch.block, next, "{}: the list has no gap", self.name);
            next += stretch.blocks;
            for block in stretch.block..next {
                let bytes = &image[(block * BLOCK) as usize..][..BLOCK as usize];
                let is_truth = bytes == content(picture[block as usize]);
                let text =
                    format!("{}: block {block} at {at}: {stretch:?}, {:?}", self.name, report.findings);
                match stretch.status {
                    // What is saved of a base may be zeroes.
                    Status::Good => {
                        let may_be_zero = self.backend.has_base() || !report.has_checksums;
                        assert!(is_truth && (picture[block as usize] != 0 || may_be_zero), "{text}")
                    }
                    Status::Unverified => {
                        let was = later.iter().any(|(_, one)| bytes == content(one[block as usize]));
                        assert!(is_truth || was || self.is_hurt(bytes), "{text}");
                    }
                    Status::Zero => assert!(is_truth && picture[block as usize] == 0, "{text}"),
                    _ if !options.doubtful => assert!(bytes.iter().all(|byte| *byte == 0), "{text}"),
                    _ => {}
                }
            }
        }
        assert_eq!(next * BLOCK, report.size_bytes, "{}: the list goes to the end", self.name);
        for status in Status::ALL {
            let told = report.stretches.iter().filter(|stretch| stretch.status == status);
            assert_eq!(report.of(status), told.map(|stretch| stretch.blocks).sum::<u64>());
        }
    }
}

/// Every version is kept, in two openings; the log goes on behind its checkpoint.
pub fn kept() -> Made {
    let mut made = Made::new("kept", 6 << 20, log(64, 8192));
    made.session(true, async |made, volume| made.work(volume, 60).await);
    made.session(false, async |made, volume| {
        made.work(volume, 60).await;
        made.snapshot(volume, "name").await;
        made.work(volume, 50).await;
        volume.context().sleep(3_000_000_000).await;
        made.work(volume, 12).await;
    });
    made
}

/// Little is kept, and segments have been emptied many times.
pub fn emptied() -> Made {
    let mut made = Made::new("emptied", (4 << 20) + (320 << 10), log(120, 24));
    for rounds in [400, 500, 170] {
        made.session(rounds == 400, async |made, volume| made.work(volume, rounds).await);
    }
    made
}

/// It has gone back to earlier moments, the last time behind its checkpoint.
pub fn returned() -> Made {
    let mut made = Made::new("returned", 6 << 20, log(64, 8192));
    made.session(true, async |made, volume| {
        for _ in 0..3 {
            made.work(volume, 20).await;
            let to = volume.info().sequence.0;
            made.work(volume, 15).await;
            made.go_back(volume, to).await;
        }
        volume.context().sleep(3_000_000_000).await;
    });
    made.session(false, async |made, volume| {
        made.work(volume, 10).await;
        let to = volume.info().sequence.0;
        made.work(volume, 10).await;
        made.go_back(volume, to).await;
        made.work(volume, 4).await;
    });
    made
}

/// A log in front of a linear volume: some of it at home, some of it in the log.
pub fn linear() -> Made {
    let options = CreateOptions { backend: Backend::Linear, thin: true, ..log(120, 24) };
    let mut made = Made::new("linear", 6 << 20, options);
    for rounds in [120, 160, 30] {
        made.session(rounds == 120, async |made, volume| made.work(volume, rounds).await);
    }
    made
}

/// Every block in its place.
pub fn direct() -> Made {
    let options = CreateOptions {
        size_bytes: Some(64 * BLOCK),
        region_bytes: 16 << 10,
        block_bytes: Some(BLOCK as u32),
        ..CreateOptions::new(Backend::Direct)
    };
    let mut made = Made::new("direct", 6 << 20, options);
    made.session(true, async |made, volume| made.work(volume, 40).await);
    made
}

/// A volume of 64 blocks with a base beside its log, which goes on for a while without a checkpoint.
fn based(backend: Backend, objects: ObjectKind) -> CreateOptions {
    CreateOptions { backend, objects, checkpoint_bytes: Some(512 << 10), ..log(64, 0) }
}

/// Snapshots of a volume and of a writable one, which goes on, as does the volume.
async fn grown(made: &mut Made, volume: &Volume) {
    made.snapshot(volume, "first").await;
    made.work(volume, 30).await;
    made.snapshot(volume, "second").await;
    let branch = made.clone_of(volume, "second", "branch").await;
    made.work_in(&branch, "branch", 25).await;
    made.work(volume, 20).await;
    made.snapshot_of(&branch, "branch", "of branch").await;
    made.work_in(&branch, "branch", 15).await;
    let twig = made.clone_of(volume, "of branch", "twig").await;
    made.work_in(&twig, "twig", 10).await;
    twig.close().await.unwrap();
    branch.close().await.unwrap();
}

/// The log goes on behind its checkpoint.
async fn goes_on(made: &mut Made, volume: &Volume) {
    let branch = volume.open_writable("branch").await.unwrap();
    made.work_in(&branch, "branch", 6).await;
    // The same blocks before and behind a snapshot, which earlier ones see as they were.
    let second = &made.named["second"];
    let same = (0..).zip(second.iter().zip(made.last())).filter(|(_, (then, now))| then == now);
    let blocks: Vec<u64> = same.map(|(block, _)| block).take(4).collect();
    for block in &blocks {
        made.write(volume, *block, 1, Durability::Durable).await;
    }
    made.snapshot(volume, "third").await;
    for block in &blocks {
        made.write(volume, *block, 1, Durability::Durable).await;
    }
    made.work_in(&branch, "branch", 6).await;
    made.work(volume, 4).await;
    // What is written in place is durable after a flush alone.
    volume.flush().await.unwrap();
    branch.close().await.unwrap();
}

/// Copies on write.
pub fn cow(objects: ObjectKind) -> Made {
    let mut made = Made::new("cow", 10 << 20, based(Backend::Cow, objects));
    made.session(true, async |made, volume| {
        made.work(volume, 40).await;
        grown(made, volume).await;
    });
    made.session(false, goes_on);
    made
}

/// What has been folded is overwritten in the base since, and what was in the log before may still lie there.
pub fn overlay(objects: ObjectKind) -> Made {
    let mut made = Made::new("overlay", 10 << 20, based(Backend::Overlay, objects));
    made.session(true, async |made, volume| {
        made.work(volume, 20).await;
        made.snapshot(volume, "gone").await;
        made.work(volume, 50).await;
        volume.delete_snapshot("gone").await.unwrap();
        made.named.remove("gone");
        volume.fold(None).await.unwrap();
        made.work(volume, 40).await;
        grown(made, volume).await;
    });
    made.session(false, goes_on);
    made
}

/// What the log held has been brought to the base, twice, and what snapshots saw there was copied before.
pub fn logged_cow(objects: ObjectKind) -> Made {
    let mut made = Made::new("logged-cow", 10 << 20, based(Backend::LoggedCow, objects));
    made.session(true, async |made, volume| {
        made.work(volume, 40).await;
        volume.apply(None).await.unwrap();
        grown(made, volume).await;
        volume.apply(None).await.unwrap();
    });
    made.session(false, goes_on);
    made
}

/// The last thing that its journal tells is a fold, and what has been folded is overwritten since.
pub fn folded() -> Made {
    let mut made = Made::new("folded", 10 << 20, based(Backend::Overlay, ObjectKind::Mapped));
    made.session(false, async |made, volume| {
        made.work(volume, 20).await;
        made.snapshot(volume, "gone").await;
        made.work(volume, 30).await;
        volume.delete_snapshot("gone").await.unwrap();
        volume.context().sleep(3_000_000_000).await;
        volume.fold(None).await.unwrap();
        made.work(volume, 30).await;
        volume.flush().await.unwrap();
    });
    made
}

/// A return to the first snapshot has stood still at its first write.
pub fn restoring() -> Made {
    let mut made = Made::new("restoring", 10 << 20, based(Backend::Cow, ObjectKind::Mapped));
    made.session(true, async |made, volume| {
        made.work(volume, 40).await;
        grown(made, volume).await;
    });
    made.session(false, async |made, volume| {
        let bytes = made.bytes();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let base = word(240)..word(240) + word(248);
        let mut writes = 0;
        made.disk.set_plan(Box::new(move |request, _| {
            let is_write =
                matches!(request.kind, OperationKind::Write { .. }) && base.contains(&request.offset);
            writes += u64::from(is_write);
            (is_write && writes > 6).then_some(Fault::Fail(libc::EIO))
        }));
        let failed = volume.rollback(Seq(made.names["first"])).await;
        assert!(failed.is_err() && volume.snapshot("first").is_ok(), "{failed:?}");
        made.disk.set_plan(Box::new(|_, _| None));
        let picture = made.named["first"].clone();
        made.note(volume, |now| *now = picture);
    });
    made
}

/// A log with writable snapshots and further volumes, of which some have been given up.
pub fn several() -> Made {
    let mut made = Made::new("several", 10 << 20, log(64, 24));
    made.session(true, async |made, volume| {
        made.work(volume, 40).await;
        made.snapshot(volume, "zeroth").await;
        let gone = made.clone_of(volume, "zeroth", "gone").await;
        made.work_in(&gone, "gone", 20).await;
        gone.close().await.unwrap();
        drop(gone);
        volume.delete_snapshot("gone").await.unwrap();
        made.named.remove("gone");
        volume.context().sleep(3_000_000_000).await;
        // It has the number of the one that is gone.
        let again = made.clone_of(volume, "zeroth", "again").await;
        made.work_in(&again, "again", 10).await;
        again.close().await.unwrap();
        grown(made, volume).await;
        let further = made.further(volume, "further", 24).await;
        made.work_in(&further, "further", 40).await;
        made.snapshot_of(&further, "further", "of further").await;
        made.work_in(&further, "further", 20).await;
        further.close().await.unwrap();
    });
    made.session(false, goes_on);
    made
}
