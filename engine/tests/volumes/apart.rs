//! A volume on two simulated disks: log and metadata on one, the blocks that have a place, of a base or of a linear
//! volume, on the other. With linear objects on a third one, if they are wanted; then the base may lie in the pool.
//!
//! Included beside `vlog` by the tests of such volumes.

use icecore::check::{Report, check_on};
use icecore::device::Device;
use icecore::device::simulated::{Event, Recorded, SimulatedDisk};
use icecore::error::{Error, Reason};
use icecore::object::ObjectKind;
use icecore::runtime::sim::Calendar;
use icecore::runtime::{OperationKind, Runtime};
use icecore::store::Backend;
use icecore::volume::{CreateOptions, Devices, OpenMode, OpenOptions, Volume, format_id};

use crate::vlog::{
    BLOCK, MIB, PREFIXES, WRITES, current, cut_at_each_request, letters, run_until, shown, small, write,
    write_base,
};

/// A volume of 2 MiB.
pub fn options(backend: Backend) -> CreateOptions {
    CreateOptions { size_bytes: Some(2 * MIB), ..small(backend) }
}

/// Bytes of the disk of linear objects: its superblocks, and four objects.
const OBJECTS_BYTES: u64 = 9 * MIB;

/// The same with linear objects.
pub fn with_objects(backend: Backend) -> CreateOptions {
    CreateOptions { objects: ObjectKind::Linear, ..options(backend) }
}

/// The requests of a kind that a disk got since its recording began: offset and length.
pub fn arrived(disk: &SimulatedDisk, which: impl Fn(OperationKind) -> bool) -> Vec<(u64, u64)> {
    let is_it = |one: &Recorded| one.event == Event::Arrived && which(one.kind);
    disk.recorded().into_iter().filter(is_it).map(|one| (one.offset, one.length)).collect()
}

/// The identity of the device with a role.
pub fn id_of(volume: &Volume, role: &str) -> String {
    let roles = volume.info().roles;
    format_id(&roles.iter().find(|(name, _)| *name == role).unwrap().1)
}

pub struct Rig {
    pub runtime: Runtime,
    pub calendar: Calendar,
    pub log: SimulatedDisk,
    pub volume: SimulatedDisk,
    /// The disk of linear objects, if they have one.
    pub objects: Option<SimulatedDisk>,
    /// The volume's blocks lie in the pool, and the volume disk is not used.
    pub base_in_pool: bool,
    /// How it is opened.
    pub opening: OpenOptions,
}

impl Rig {
    pub fn blank(seed: u64) -> Self {
        let (runtime, calendar) = Runtime::simulated(seed).unwrap();
        let disk = |seed, name, bytes| SimulatedDisk::new(&calendar, seed, name, bytes, BLOCK as u32);
        let (log, volume) = (disk(seed, "log disk", 6 * MIB), disk(seed + 1, "volume disk", 4 * MIB));
        let opening = OpenOptions::default();
        Self { runtime, calendar, log, volume, objects: None, base_in_pool: false, opening }
    }

    /// Three disks, or two with the base in the pool, with nothing on them.
    pub fn blank_with_objects(seed: u64, base_in_pool: bool) -> Self {
        let rig = Self::blank(seed);
        let objects =
            SimulatedDisk::new(&rig.calendar, seed + 7, "objects disk", OBJECTS_BYTES, BLOCK as u32);
        Self { objects: Some(objects), base_in_pool, ..rig }
    }

    /// The same with a volume of 2 MiB, and room for four linear objects.
    pub fn with_objects(seed: u64, backend: Backend, base_in_pool: bool) -> Self {
        let rig = Self::blank_with_objects(seed, base_in_pool);
        rig.runtime.block_on(Volume::create_on(&rig.devices(), with_objects(backend))).unwrap();
        rig
    }

    /// The disk of linear objects.
    pub fn objects(&self) -> &SimulatedDisk {
        self.objects.as_ref().expect("they have one")
    }

    pub fn new(seed: u64, backend: Backend) -> Self {
        Self::with(seed, options(backend))
    }

    pub fn with(seed: u64, options: CreateOptions) -> Self {
        let rig = Self::blank(seed);
        rig.runtime.block_on(Volume::create_on(&rig.devices(), options)).unwrap();
        rig
    }

    /// Two other disks with a volume of the same kind.
    pub async fn strangers(&self, backend: Backend) -> (SimulatedDisk, SimulatedDisk) {
        let disk = |seed, name, bytes| SimulatedDisk::new(&self.calendar, seed, name, bytes, BLOCK as u32);
        let (log, volume) = (disk(5, "foreign log", 6 * MIB), disk(4, "foreign disk", 4 * MIB));
        let devices = Devices { pool: self.device(&log), volume: Some(self.device(&volume)), objects: None };
        Volume::create_on(&devices, options(backend)).await.unwrap();
        (log, volume)
    }

    /// Why these two are not opened, in any mode. None of `disks` is written to.
    pub async fn refused<'a>(
        &self,
        pool: &SimulatedDisk,
        volume: impl Into<Option<&'a SimulatedDisk>>,
        disks: &[&SimulatedDisk],
    ) -> Error {
        let volume = volume.into();
        let hashes = || disks.iter().map(|disk| disk.hash()).collect::<Vec<_>>();
        let (before, mut refusal) = (hashes(), None);
        for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly, OpenMode::ReadWriteAcceptingLoss] {
            let volume = volume.map(|disk| self.device(disk));
            let devices = Devices { pool: self.device(pool), volume, objects: None };
            let error = Volume::open(devices, mode).await.unwrap_err();
            assert_eq!(hashes(), before, "what is refused writes nothing: {error}");
            refusal = Some(error);
        }
        refusal.unwrap()
    }

    pub fn device(&self, disk: &SimulatedDisk) -> Device {
        disk.open(self.runtime.context()).unwrap()
    }

    pub fn devices(&self) -> Devices {
        let volume = (!self.base_in_pool).then(|| self.device(&self.volume));
        let objects = self.objects.as_ref().map(|disk| self.device(disk));
        Devices { pool: self.device(&self.log), volume, objects }
    }

    pub async fn open(&self) -> Volume {
        Volume::open_with(self.devices(), OpenMode::ReadWrite, self.opening).await.unwrap()
    }

    /// All disks.
    pub fn disks(&self) -> impl Iterator<Item = &SimulatedDisk> {
        [&self.log, &self.volume].into_iter().chain(&self.objects)
    }

    pub fn cut_power(&self) {
        self.disks().for_each(|disk| disk.cut_power());
    }

    pub fn record(&self) {
        self.disks().for_each(|disk| disk.start_recording());
    }

    /// The offline check of all of them.
    pub fn checked(&self) -> Result<Report, Error> {
        let devices = self.devices();
        self.runtime.block_on(check_on(&devices.pool, devices.beside(), &mut |_| ()))
    }

    /// What the volume's disk holds at the first regions, behind its superblocks.
    pub fn letters(&self) -> String {
        letters(&self.volume, MIB)
    }

    pub fn requests(&self) -> u64 {
        self.disks().map(|disk| disk.requests()).sum()
    }

    /// Runs `work` until the disks have seen so many more requests. Whether it ended.
    pub async fn run_until<T>(&self, requests: u64, work: impl Future<Output = T>) -> bool {
        run_until(self.runtime.context(), || self.requests(), requests, work).await
    }
}

/// The base, T0, W1 to W3, T1, W4 to W6.
pub async fn v_3a(rig: &Rig) -> Volume {
    let volume = rig.open().await;
    write_base(&volume).await;
    volume.create_snapshot("T0").await.unwrap();
    write_some(&volume, 1..=3).await;
    volume.create_snapshot("T1").await.unwrap();
    write_some(&volume, 4..=6).await;
    volume
}

/// What that shows, and shows again when the power of all devices has been cut.
pub async fn v_3a_is_shown(rig: &Rig, mut volume: Volume) -> Volume {
    for cut in [false, true] {
        if cut {
            drop(volume);
            rig.cut_power();
            volume = rig.open().await;
        }
        assert_eq!(current(&volume).await, PREFIXES[6]);
        assert_eq!(shown(&volume, "T0").await.unwrap(), PREFIXES[0]);
        assert_eq!(shown(&volume, "T1").await.unwrap(), PREFIXES[3]);
    }
    volume
}

/// Some of W1 to W6.
pub async fn write_some(volume: &Volume, which: std::ops::RangeInclusive<usize>) {
    for (region, letter) in &WRITES[which.start() - 1..*which.end()] {
        write(volume, *region, *letter).await.unwrap();
    }
}

/// Cuts the power of both disks at each request of a creation: no volume is left, and it says so, or a whole one, for
/// which `judge` is asked; devices that hold none take one.
pub fn creation_is_whole_or_not(backend: Backend, judge: impl AsyncFn(&Volume)) {
    let (mut none, mut whole) = (0, 0);
    cut_at_each_request(|cut_at| {
        let rig = Rig::blank(100 + cut_at);
        rig.runtime.block_on(async {
            let devices = rig.devices();
            let creating = async { Volume::create_on(&devices, options(backend)).await.unwrap() };
            let ended = rig.run_until(cut_at, creating).await;
            drop(devices);
            rig.cut_power();
            match Volume::open(rig.devices(), OpenMode::ReadWrite).await {
                Ok(volume) => {
                    whole += 1;
                    judge(&volume).await;
                }
                Err(error) => {
                    none += 1;
                    let of_pool = matches!(error.reason(), Reason::NoSuperblock | Reason::SuperblockDamaged);
                    assert!(of_pool && error.to_string().contains("log disk"), "{cut_at}: {error}");
                    Volume::create_on(&rig.devices(), options(backend)).await.unwrap();
                }
            }
            ended
        })
    });
    println!("{none} times none, {whole} times a whole one");
    assert!(none > 10 && whole > 1);
}
