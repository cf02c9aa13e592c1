//! A volume with a base on two simulated disks: the base on one, log and metadata on the other.
//!
//! Included beside `vlog` by the tests of such volumes.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::task::Poll;

use icecore::device::Device;
use icecore::device::simulated::SimulatedDisk;
use icecore::runtime::Runtime;
use icecore::runtime::sim::Calendar;
use icecore::store::Backend;
use icecore::volume::{CreateOptions, Devices, OpenMode, OpenOptions, Volume};

use crate::vlog::{BLOCK, MIB, WRITES, letters, small, write};

/// A volume of 2 MiB.
pub fn options(backend: Backend) -> CreateOptions {
    CreateOptions { size_bytes: Some(2 * MIB), ..small(backend) }
}

pub struct Rig {
    pub runtime: Runtime,
    pub calendar: Calendar,
    pub log: SimulatedDisk,
    pub base: SimulatedDisk,
    /// What is read of an overlay is moved home.
    pub moves: bool,
}

impl Rig {
    pub fn blank(seed: u64) -> Self {
        let (runtime, calendar) = Runtime::simulated(seed).unwrap();
        let disk = |seed, name, bytes| SimulatedDisk::new(&calendar, seed, name, bytes, BLOCK as u32);
        let (log, base) = (disk(seed, "log disk", 6 * MIB), disk(seed + 1, "base disk", 4 * MIB));
        Self { runtime, calendar, log, base, moves: false }
    }

    pub fn new(seed: u64, backend: Backend) -> Self {
        let rig = Self::blank(seed);
        rig.runtime.block_on(Volume::create_on(&rig.devices(), options(backend))).unwrap();
        rig
    }

    pub fn device(&self, disk: &SimulatedDisk) -> Device {
        disk.open(self.runtime.context()).unwrap()
    }

    pub fn devices(&self) -> Devices {
        Devices { pool: self.device(&self.log), volume: Some(self.device(&self.base)) }
    }

    pub async fn open(&self) -> Volume {
        let options = OpenOptions { move_home_on_read: self.moves, ..OpenOptions::default() };
        Volume::open_with(self.devices(), OpenMode::ReadWrite, options).await.unwrap()
    }

    pub fn cut_power(&self) {
        self.log.cut_power();
        self.base.cut_power();
    }

    pub fn record(&self) {
        self.log.start_recording();
        self.base.start_recording();
    }

    /// What the base's disk holds at the first regions, behind its superblocks.
    pub fn letters(&self) -> String {
        letters(&self.base, MIB)
    }

    pub fn requests(&self) -> u64 {
        self.log.requests() + self.base.requests()
    }

    /// Runs `work` until the disks have seen so many more requests. Whether it ended.
    pub async fn run_until(&self, requests: u64, work: impl Future<Output = ()>) -> bool {
        let limit = self.requests() + requests;
        let mut work = Box::pin(work);
        let mut cut = Box::pin(async {
            while self.requests() < limit {
                self.runtime.context().sleep(1_000).await;
            }
        });
        std::future::poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => cut.as_mut().poll(context).map(|()| false),
        })
        .await
    }
}

/// Some of W1 to W6.
pub async fn write_some(volume: &Volume, which: std::ops::RangeInclusive<usize>) {
    for (region, letter) in &WRITES[which.start() - 1..*which.end()] {
        write(volume, *region, *letter).await.unwrap();
    }
}
