//! Pools on simulated disks, and what their images were after every write: a model that asks the engine nothing but
//! the number of the last sequence.

use std::collections::BTreeMap;

use icecore::check::{Salvage, SalvageOptions, SalvageReport, Status, check};
use icecore::device::Device;
use icecore::device::simulated::{Fault, SimulatedDisk};
use icecore::error::Error;
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
        self.names.clear();
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

    #[track_caller]
    pub fn hold(&self, options: &SalvageOptions, report: &SalvageReport, image: &[u8]) {
        let at = if report.has_checksums { report.sequence } else { u64::MAX };
        let (_, picture) = self.pictures.range(..=at).next_back().unwrap();
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
                    Status::Good => {
                        assert!(is_truth && (picture[block as usize] != 0 || !report.has_checksums), "{text}")
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
