//! The vectors V-2, V-3A and V-COW on volumes with a base, every value of them: letters alone, tagged with who wrote them,
//! and scattered over a large volume; regions of 4 KiB, of 64 KiB, and of 64 KiB in blocks of 4 KiB.
//!
//! What lies where is read from the disk: the base at its place, what was saved or written elsewhere from the batches of
//! the log (mapped objects), or at its place in the object of its snapshot (linear ones).

use std::cell::Cell;

use icecore::device::simulated::SimulatedDisk;
use icecore::error::Reason;
use icecore::format::batch::{self, Batch, Decoded, KIND_DATA, KIND_SAVED, is_in_place};
use icecore::format::superblock::Superblock;
use icecore::object::ObjectKind;
use icecore::store::Backend;
use icecore::store::log::{Image, ImageOptions};
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{CreateOptions, Durability, Initialise, OpenMode, OpenOptions, Volume};

use crate::objects::objects;
use crate::on_disk::superblock;
use crate::vlog::{self, MIB, PREFIXES, Rig, WRITES, is_sound};

pub const T0: &str = PREFIXES[0];
pub const T1: &str = PREFIXES[3];
pub const T2: &str = PREFIXES[6];

/// How the letters are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub region_bytes: u64,
    pub block_bytes: u64,
    /// The first bytes of a region say which it is and which write it was.
    pub tagged: bool,
    pub scattered: bool,
}

pub const FORMS: [Form; 9] = {
    let (small, large) = (4096, 64 << 10);
    [
        Form { region_bytes: small, block_bytes: small, tagged: false, scattered: false },
        Form { region_bytes: large, block_bytes: large, tagged: false, scattered: false },
        Form { region_bytes: large, block_bytes: small, tagged: false, scattered: false },
        Form { region_bytes: small, block_bytes: small, tagged: true, scattered: false },
        Form { region_bytes: large, block_bytes: large, tagged: true, scattered: false },
        Form { region_bytes: large, block_bytes: small, tagged: true, scattered: false },
        Form { region_bytes: small, block_bytes: small, tagged: true, scattered: true },
        Form { region_bytes: large, block_bytes: large, tagged: true, scattered: true },
        Form { region_bytes: large, block_bytes: small, tagged: true, scattered: true },
    ]
};

impl Form {
    pub fn volume_bytes(&self) -> u64 {
        if self.scattered { 1 << 30 } else { 16 * self.region_bytes }
    }

    pub fn place(&self, region: u64) -> u64 {
        let regions = self.volume_bytes() / self.region_bytes;
        let at = if self.scattered { region * 4099 % regions } else { region };
        at * self.region_bytes
    }

    pub fn options(&self, backend: Backend, objects: ObjectKind) -> CreateOptions {
        CreateOptions {
            objects,
            size_bytes: Some(self.volume_bytes()),
            region_bytes: self.region_bytes as u32,
            block_bytes: Some(self.block_bytes as u32),
            segment_bytes: Some(64 * self.block_bytes as u32),
            checkpoint_bytes: Some(64 * self.block_bytes),
            initialise: Initialise::Keep,
            ..CreateOptions::new(backend)
        }
    }

    pub fn content(&self, region: u64, letter: u8, write: u64) -> Vec<u8> {
        let mut bytes = vec![letter; self.region_bytes as usize];
        if self.tagged {
            bytes[..8].copy_from_slice(&region.to_le_bytes());
            bytes[8..16].copy_from_slice(&write.to_le_bytes());
        }
        bytes
    }

    /// The letter of a region, which has to be of one piece and what one of the writes of it wrote.
    pub fn letter(&self, region: u64, bytes: &[u8]) -> char {
        let letter = bytes[bytes.len() - 1];
        let writes =
            (1..).zip(WRITES).filter(|(_, write)| *write == (region, letter)).map(|(number, _)| number);
        let of_base = Some(0).filter(|_| T0.as_bytes()[region as usize] == letter);
        let whole = writes.chain(of_base).any(|write| self.content(region, letter, write) == bytes);
        assert!(whole, "region {region} is what no write of {:?} wrote, {self:?}", char::from(letter));
        char::from(letter)
    }
}

/// All forms, with both kinds of objects.
pub fn forms_and_objects() -> impl Iterator<Item = (Form, ObjectKind)> {
    FORMS.into_iter().flat_map(|form| ObjectKind::ALL.map(|kind| (form, kind)))
}

fn backends_and_objects() -> impl Iterator<Item = (Backend, ObjectKind)> {
    [Backend::Cow, Backend::Overlay]
        .into_iter()
        .flat_map(|backend| ObjectKind::ALL.map(|kind| (backend, kind)))
}

/// A volume with the base `abcdefgh` in place, durable.
pub struct Play {
    pub form: Form,
    pub rig: Rig,
}

impl Play {
    pub fn new(form: Form, backend: Backend, objects: ObjectKind) -> (Self, Volume) {
        // Room for two snapshots' objects, should they have any, and the index.
        let disk_bytes = 3 * form.volume_bytes() + form.volume_bytes() / 4 + 160 * MIB;
        let rig = Rig::new(1, disk_bytes, form.options(backend, objects));
        let play = Self { form, rig };
        let volume = play.rig.runtime.block_on(async {
            let volume = play.open().await;
            for (region, letter) in (0..).zip(T0.bytes()) {
                play.write(&volume, region, letter, 0).await;
            }
            volume
        });
        (play, volume)
    }

    pub async fn open(&self) -> Volume {
        self.rig.open_with(OpenOptions::default()).await
    }

    pub async fn write(&self, volume: &Volume, region: u64, letter: u8, write: u64) {
        let buf = volume.context().buffers().copy_of(&self.form.content(region, letter, write)).unwrap();
        volume.write(ByteOffset(self.form.place(region)), buf, Durability::Durable).await.0.unwrap();
    }

    /// Some of W1 to W6.
    pub async fn write_some(&self, volume: &Volume, which: std::ops::RangeInclusive<u64>) {
        for number in which {
            let (region, letter) = WRITES[number as usize - 1];
            self.write(volume, region, letter, number).await;
        }
    }

    pub async fn current(&self, volume: &Volume) -> String {
        let mut letters = String::new();
        for region in 0..8 {
            let mut bytes = vec![0; self.form.region_bytes as usize];
            volume.read_bytes(ByteOffset(self.form.place(region)), &mut bytes).await.unwrap();
            letters.push(self.form.letter(region, &bytes));
        }
        letters
    }

    pub async fn image(&self, image: &Image, volume: &Volume) -> String {
        let mut letters = String::new();
        for region in 0..8 {
            let buf = volume.context().buffers().get(self.form.region_bytes as usize).unwrap();
            let (read, buf) = image.read(ByteOffset(self.form.place(region)), buf).await;
            read.unwrap();
            letters.push(self.form.letter(region, &buf));
        }
        letters
    }

    pub async fn shown(&self, volume: &Volume, name: &str) -> String {
        let sequence = Some(volume.snapshot(name).unwrap().sequence);
        let image = volume.image(ImageOptions { sequence, ..ImageOptions::default() }).await.unwrap();
        self.image(&image, volume).await
    }

    pub fn superblock(&self) -> Superblock {
        superblock(&self.rig.disk)
    }

    /// The letters of the base, on the disk.
    pub fn base(&self) -> String {
        let start = self.superblock().base.offset.get();
        let read =
            |region| self.rig.disk.peek(start + self.form.place(region), self.form.region_bytes as usize);
        (0..8).map(|region| self.form.letter(region, &read(region))).collect()
    }

    /// What the batches on the disk hold of this kind: regions and letters, in the order of the log.
    pub fn logged(&self, kind: u32) -> Vec<(u64, char)> {
        let mut batches = batches(&self.rig.disk);
        batches.sort_by_key(|(_, batch)| batch.header.batch.get());
        let blocks_of_region = self.form.region_bytes / self.form.block_bytes;
        let mut logged = Vec::new();
        for (address, batch) in &batches {
            for entry in batch.entries.iter().filter(|entry| entry.kind == kind) {
                let at = entry.lba.get() * self.form.block_bytes;
                let region =
                    (0..8).find(|region| self.form.place(*region) == at).expect("it is one of the eight");
                assert_eq!(u64::from(entry.blocks.get()), blocks_of_region);
                let payload = address
                    + u64::from(batch.header.header_bytes.get())
                    + u64::from(entry.payload.get()) * self.form.block_bytes;
                let bytes = self.rig.disk.peek(payload, self.form.region_bytes as usize);
                logged.push((region, self.form.letter(region, &bytes)));
            }
        }
        logged
    }

    /// What lies in its place in each object: number of the object, region and letter, in the order of the log. Nothing of
    /// it is payload.
    pub fn placed(&self) -> Vec<(usize, u64, char)> {
        let disk = &self.rig.disk;
        let (objects, mut batches) = (objects(disk), batches(disk));
        batches.sort_by_key(|(_, batch)| batch.header.batch.get());
        let block_bytes = self.form.block_bytes;
        let mut blocks: Vec<(usize, u64)> = Vec::new();
        for entry in batches.iter().flat_map(|(_, batch)| &batch.entries) {
            assert!(is_in_place(entry.kind.get()), "nothing else is written, {:?}", self.form);
            let number = entry.tag.get() as u32;
            let extent = (entry.lba.get() / 64) as u32;
            let object = objects.iter().position(|object| object.first + extent == number).unwrap();
            let lbas = entry.lba.get()..entry.lba.get() + u64::from(entry.blocks.get());
            blocks.extend(lbas.map(|lba| (object, lba)));
        }
        let per_region = (self.form.region_bytes / block_bytes) as usize;
        let placed = blocks.chunks(per_region).map(|region| {
            let (object, lba) = region[0];
            assert!(region.iter().copied().eq((lba..).take(per_region).map(|lba| (object, lba))));
            let number = (0..8).find(|region| self.form.place(*region) == lba * block_bytes).unwrap();
            let at = objects[object].place(disk, lba);
            let bytes = disk.peek(at, self.form.region_bytes as usize);
            (object, number, self.form.letter(number, &bytes))
        });
        placed.collect()
    }

    /// The regions that differ between two moments.
    pub async fn differing(&self, volume: &Volume, one: Seq, other: Seq) -> Vec<u64> {
        let ranges = volume.difference(one, other).await.unwrap();
        let is_in = |region: &u64| ranges.iter().any(|range| range.contains(&self.form.place(*region)));
        (0..8).filter(is_in).collect()
    }
}

/// The whole batches in the data area, with their places.
pub fn batches(disk: &SimulatedDisk) -> Vec<(u64, Box<Batch>)> {
    let found = superblock(disk);
    let (start, block_bytes) = (found.data.offset.get(), found.block_bytes.get());
    let places = (start..start + found.data.bytes.get().min(12 * MIB)).step_by(block_bytes as usize);
    let decode = |at| {
        let head = disk.peek(at, 1 << 18);
        match batch::decode(&head, at, block_bytes) {
            Decoded::Valid(batch) => Some((at, batch)),
            _ => None,
        }
    };
    places.filter_map(decode).collect()
}

#[test]
fn v_2_every_value() {
    for (form, objects) in forms_and_objects() {
        let (play, volume) = Play::new(form, Backend::Overlay, objects);
        play.rig.runtime.block_on(async {
            let t0 = volume.create_snapshot("T0").await.unwrap().sequence;
            let bitmaps: [&[u64]; 3] = [&[0], &[0, 3], &[0, 3]];
            for (number, bitmap) in (1..).zip(bitmaps) {
                play.write_some(&volume, number..=number).await;
                assert_eq!(play.current(&volume).await, PREFIXES[number as usize]);
                let now = volume.info().sequence;
                assert_eq!(play.differing(&volume, t0, now).await, bitmap, "after W{number}, {form:?}");
                assert_eq!(play.base(), T0, "the base is as it was");
            }
            // The overlay holds 1 and z; x is there no more.
            let per_region = form.region_bytes / form.block_bytes;
            assert_eq!(volume.status().log.unwrap().live_blocks, 2 * per_region);
            match objects {
                ObjectKind::Mapped => {
                    assert_eq!(play.logged(KIND_DATA), [(0, 'x'), (3, 'z'), (0, '1')]);
                }
                // In its place there, 1 has overwritten x without a word.
                ObjectKind::Linear => assert_eq!(play.placed(), [(0, 0, '1'), (0, 3, 'z')]),
            }
            // As it is on the device.
            drop(volume);
            play.rig.disk.cut_power();
            let volume = play.open().await;
            let now = volume.info().sequence;
            assert_eq!(play.differing(&volume, t0, now).await, [0, 3]);
            assert_eq!(play.current(&volume).await, T1);
            assert_eq!(play.shown(&volume, "T0").await, T0);
            assert_eq!(play.base(), T0);
        });
    }
}

/// T0, W1 to W3, T1, W4 to W6.
async fn v_3a(play: &Play, volume: &Volume) {
    volume.create_snapshot("T0").await.unwrap();
    play.write_some(volume, 1..=3).await;
    volume.create_snapshot("T1").await.unwrap();
    play.write_some(volume, 4..=6).await;
}

#[test]
fn v_3a_every_value() {
    for (form, objects) in forms_and_objects() {
        let (play, mut volume) = Play::new(form, Backend::Overlay, objects);
        play.rig.runtime.block_on(async {
            v_3a(&play, &volume).await;
            if objects == ObjectKind::Linear {
                let placed = [(0, 0, '1'), (0, 3, 'z'), (1, 2, 'F'), (1, 3, 'y'), (1, 5, 'G')];
                assert_eq!(play.placed(), placed, "{form:?}");
            }
            for reopened in [false, true] {
                if reopened {
                    drop(volume);
                    play.rig.disk.cut_power();
                    volume = play.open().await;
                }
                assert_eq!(play.shown(&volume, "T0").await, T0);
                assert_eq!(play.shown(&volume, "T1").await, T1);
                assert_eq!(play.current(&volume).await, T2);
                let [t0, t1] = ["T0", "T1"].map(|name| volume.snapshot(name).unwrap().sequence);
                let t2 = volume.info().sequence;
                assert_eq!(play.differing(&volume, t0, t1).await, [0, 3], "the bitmap of the first overlay");
                assert_eq!(play.differing(&volume, t1, t2).await, [2, 3, 5], "and of the second one");
                let mut sources = Vec::new();
                for region in 0..8 {
                    let versions = volume.versions(ByteOffset(form.place(region))).await.unwrap();
                    sources.push(match versions.last().unwrap().sequence {
                        newest if newest > t1 => "O2",
                        newest if newest > t0 => "O1",
                        _ => "B",
                    });
                }
                assert_eq!(sources, ["O1", "B", "O2", "O2", "B", "O2", "B", "B"]);
                assert_eq!(play.base(), T0);
            }
        });
    }
}

#[test]
fn overlays_are_folded_oldest_first_and_no_image_changes() {
    for (form, kind) in forms_and_objects() {
        let (play, volume) = Play::new(form, Backend::Overlay, kind);
        play.rig.runtime.block_on(async {
            v_3a(&play, &volume).await;
            let refused = volume.fold(None).await.unwrap_err();
            assert_eq!(*refused.reason(), Reason::OutOfOrder { first: "T1".to_string() });
            let refused = volume.fold(Some("T1")).await.unwrap_err();
            assert_eq!(*refused.reason(), Reason::BasePinned { by: "snapshot \"T0\"".to_string() });
            volume.delete_snapshot("T0").await.unwrap();
            volume.fold(Some("T1")).await.unwrap();
            assert_eq!(play.base(), T1);
            assert_eq!(play.shown(&volume, "T1").await, T1);
            assert_eq!(play.current(&volume).await, T2);
            let refused = volume.fold(None).await.unwrap_err();
            assert_eq!(*refused.reason(), Reason::BasePinned { by: "snapshot \"T1\"".to_string() });
            let gone = volume.snapshot("T0").unwrap_err();
            assert_eq!(*gone.reason(), Reason::NoSnapshot { name: "T0".to_string() });
            volume.delete_snapshot("T1").await.unwrap();
            volume.fold(None).await.unwrap();
            assert_eq!(play.base(), T2);
            assert_eq!(volume.status().log.unwrap().live_blocks, 0, "no overlay is left");
            assert_eq!(play.current(&volume).await, T2);
            // From now on it is written in place again.
            play.write(&volume, 7, b'h', 0).await;
            assert_eq!(volume.status().log.unwrap().live_blocks, 0);
            volume.close().await.unwrap();
            assert_eq!(objects(&play.rig.disk), [], "no object is left");
            drop(volume);
            assert_eq!(play.current(&play.open().await).await, T2);
        });
    }
}

#[test]
fn v_cow_every_value() {
    for (form, kind) in forms_and_objects() {
        let (play, mut volume) = Play::new(form, Backend::Cow, kind);
        play.rig.runtime.block_on(async {
            volume.create_snapshot("S0").await.unwrap();
            let first = [(0, 'a'), (3, 'd')];
            let saved: [&[(u64, char)]; 3] = [&first[..1], &first, &first];
            for (number, saved) in (1..).zip(saved) {
                play.write_some(&volume, number..=number).await;
                assert_eq!(play.base(), PREFIXES[number as usize], "in place");
                match kind {
                    ObjectKind::Mapped => {
                        assert_eq!(play.logged(KIND_SAVED), saved, "after W{number}, {form:?}");
                    }
                    ObjectKind::Linear => {
                        let saved: Vec<_> = saved.iter().map(|(at, letter)| (0, *at, *letter)).collect();
                        assert_eq!(play.placed(), saved, "after W{number}, {form:?}");
                    }
                }
                assert_eq!(play.shown(&volume, "S0").await, T0);
            }
            volume.create_snapshot("S1").await.unwrap();
            play.write_some(&volume, 4..=6).await;
            assert_eq!(play.base(), T2);
            match kind {
                ObjectKind::Mapped => {
                    let saved = [(0, 'a'), (3, 'd'), (2, 'c'), (3, 'z'), (5, 'f')];
                    assert_eq!(play.logged(KIND_SAVED), saved);
                }
                ObjectKind::Linear => {
                    let saved = [(0, 0, 'a'), (0, 3, 'd'), (1, 2, 'c'), (1, 3, 'z'), (1, 5, 'f')];
                    assert_eq!(play.placed(), saved);
                }
            }
            let per_region = form.region_bytes / form.block_bytes;
            assert_eq!(volume.status().log.unwrap().live_blocks, 5 * per_region);
            for reopened in [false, true] {
                if reopened {
                    drop(volume);
                    play.rig.disk.cut_power();
                    volume = play.open().await;
                }
                assert_eq!(play.shown(&volume, "S0").await, T0);
                assert_eq!(play.shown(&volume, "S1").await, T1);
                assert_eq!(play.current(&volume).await, T2);
            }
        });
    }
}

/// Deletes one of two snapshots: how many blocks live afterwards, and the bytes that were read and written meanwhile.
fn delete(form: Form, kind: ObjectKind, gone: &str, left: &str, expected: &str) -> (u64, u64) {
    let (play, volume) = Play::new(form, Backend::Cow, kind);
    play.rig.runtime.block_on(async {
        volume.create_snapshot("S0").await.unwrap();
        play.write_some(&volume, 1..=3).await;
        volume.create_snapshot("S1").await.unwrap();
        play.write_some(&volume, 4..=6).await;
        // The index is on the disk, as it is long after.
        drop(volume.image(ImageOptions::default()).await.unwrap());
        let found = play.superblock();
        let is_data = |at: u64| at >= found.base.offset.get();
        play.rig.disk.start_recording();
        volume.delete_snapshot(gone).await.unwrap();
        volume.context().sleep(3_000_000_000).await;
        let moved = play.rig.disk.recorded();
        let moved = moved.iter().filter(|one| is_data(one.offset)).map(|one| one.length).sum();
        assert_eq!(play.shown(&volume, left).await, expected);
        assert_eq!(play.current(&volume).await, T2);
        let live = volume.status().log.unwrap().live_blocks;
        drop(volume);
        play.rig.disk.cut_power();
        let volume = play.open().await;
        assert_eq!(play.shown(&volume, left).await, expected);
        (live * form.block_bytes / form.region_bytes, moved)
    })
}

#[test]
fn deleting_a_copy_on_write_snapshot_moves_no_data_and_the_older_image_keeps_its_own() {
    for (form, kind) in forms_and_objects() {
        assert_eq!(delete(form, kind, "S0", "S1", T1), (3, 0), "c, z and f are left, {form:?}");
        assert_eq!(delete(form, kind, "S1", "S0", T0), (4, 0), "a, d, c and f are left, z is not, {form:?}");
    }
}

#[test]
fn the_rest_of_a_region_that_is_written_in_part_stays() {
    for backend in [Backend::Overlay, Backend::Cow] {
        for (form, kind) in forms_and_objects().filter(|(form, _)| !form.tagged) {
            let (play, volume) = Play::new(form, backend, kind);
            play.rig.runtime.block_on(async {
                volume.create_snapshot("T0").await.unwrap();
                let at = form.place(4);
                volume.write_bytes(ByteOffset(at + 1000), &[b'Q'; 100], Durability::Durable).await.unwrap();
                let mut bytes = vec![0; form.region_bytes as usize];
                volume.read_bytes(ByteOffset(at), &mut bytes).await.unwrap();
                let expected = |at: usize| if (1000..1100).contains(&at) { b'Q' } else { b'e' };
                assert!(
                    bytes.iter().enumerate().all(|(at, byte)| *byte == expected(at)),
                    "{backend:?} {form:?}"
                );
                assert_eq!(play.shown(&volume, "T0").await, T0);
            });
        }
    }
}

pub const CUT_FORM: Form = FORMS[0];

/// Cuts power at each request of `work` and tells what is found to `judge`: the play, the volume reopened, and how
/// many writes had completed. How many cuts there were.
pub fn cut_at_each_request(
    (backend, kind): (Backend, ObjectKind),
    prepare: impl AsyncFn(&Play, &Volume),
    work: impl AsyncFn(&Play, &Volume, &Cell<u64>),
    judge: impl AsyncFn(&Play, &Volume, u64),
) -> u64 {
    vlog::cut_at_each_request(|cut_at| {
        let (play, volume) = Play::new(CUT_FORM, backend, kind);
        let done = Cell::new(0);
        play.rig.runtime.block_on(async {
            prepare(&play, &volume).await;
            let ended = play.rig.run_until(cut_at, work(&play, &volume, &done)).await;
            drop(volume);
            play.rig.disk.cut_power();
            is_sound(&play.rig).await;
            let volume = play.open().await;
            judge(&play, &volume, done.get()).await;
            ended
        })
    })
}

#[test]
fn a_cut_at_each_request_of_w1_to_w3_leaves_a_prefix_and_the_snapshot() {
    for (backend, kind) in backends_and_objects() {
        let cuts = cut_at_each_request(
            (backend, kind),
            async |_, volume| drop(volume.create_snapshot("T0").await.unwrap()),
            async |play, volume, done| {
                for number in 1..=3 {
                    play.write_some(volume, number..=number).await;
                    done.set(number);
                }
            },
            async |play, volume, done| {
                // In place, a write of a block is as atomic as the disk makes it: of its sectors.
                let next = (done as usize + 1).min(3);
                let legal = [PREFIXES[done as usize], PREFIXES[next]];
                let mut bytes = vec![0; 8 * CUT_FORM.region_bytes as usize];
                volume.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
                for (region, found) in bytes.chunks(CUT_FORM.region_bytes as usize).enumerate() {
                    let is_legal = |bytes: &[u8]| {
                        legal.iter().any(|one| bytes.iter().all(|b| *b == one.as_bytes()[region]))
                    };
                    let in_place = backend == Backend::Cow || kind == ObjectKind::Linear;
                    let unit = if in_place { 512 } else { found.len() };
                    assert!(
                        found.chunks(unit).all(is_legal),
                        "{backend:?}: region {region} after {done} writes"
                    );
                }
                assert_eq!(play.shown(volume, "T0").await, T0, "{backend:?} after {done} writes");
            },
        );
        assert!(cuts > 5, "{backend:?}: {cuts} cuts");
    }
}

#[test]
fn a_cut_at_each_request_of_two_folds_changes_no_image() {
    ObjectKind::ALL.into_iter().for_each(cut_two_folds);
}

fn cut_two_folds(kind: ObjectKind) {
    let cuts = cut_at_each_request(
        (Backend::Overlay, kind),
        async |play, volume| v_3a(play, volume).await,
        async |_, volume, done| {
            volume.delete_snapshot("T0").await.unwrap();
            volume.fold(Some("T1")).await.unwrap();
            done.set(1);
            volume.delete_snapshot("T1").await.unwrap();
            done.set(2);
            volume.fold(None).await.unwrap();
            done.set(3);
        },
        async |play, volume, done| {
            assert_eq!(play.current(volume).await, T2, "after {done}");
            let names: Vec<String> = volume.snapshots().into_iter().map(|snapshot| snapshot.name).collect();
            for name in &names {
                assert_eq!(
                    play.shown(volume, name).await,
                    if name == "T0" { T0 } else { T1 },
                    "after {done}"
                );
            }
            assert!(done >= 1 || names.contains(&"T1".to_string()), "it was not given up");
            // It ends as it would have.
            for name in &names {
                volume.delete_snapshot(name).await.unwrap();
            }
            volume.fold(None).await.unwrap();
            assert_eq!(play.base(), T2);
        },
    );
    assert!(cuts > 13, "{cuts} cuts");
}

/// Copies that are lost with a damaged log are not made up for by the base: no image shows what was never there.
#[test]
fn a_damaged_log_of_copies_loses_no_current_block_and_breaks_the_snapshots() {
    let (play, volume) = Play::new(CUT_FORM, Backend::Cow, ObjectKind::Mapped);
    play.rig.runtime.block_on(async {
        volume.create_snapshot("S0").await.unwrap();
        let moment = volume.snapshot("S0").unwrap().sequence.0;
        play.write_some(&volume, 1..=6).await;
        // The idle mark promises all of it.
        volume.context().sleep(3_000_000_000).await;
        drop(volume);
        play.rig.disk.cut_power();
        let mut saved = batches(&play.rig.disk);
        saved.sort_by_key(|(_, batch)| batch.header.batch.get());
        let payload = saved[1].0 + u64::from(saved[1].1.header.header_bytes.get());
        play.rig.disk.poke(payload, &[0xEE; 512]);
        let open = async |mode| {
            play.rig.runtime.context().sleep(50_000_000).await;
            Volume::open(play.rig.device(), mode).await
        };
        let refused = open(OpenMode::ReadWrite).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::LogDamaged { .. }), "{refused}");
        {
            let volume = open(OpenMode::ReadOnly).await.unwrap();
            assert_eq!(play.current(&volume).await, T2, "the base needs no log");
            let options = ImageOptions { sequence: Some(Seq(moment)), ..ImageOptions::default() };
            let refused = volume.image(options).await.unwrap_err();
            assert!(matches!(refused.reason(), Reason::LogDamaged { .. }), "{refused}");
        }
        let volume = open(OpenMode::ReadWriteAcceptingLoss).await.unwrap();
        assert_eq!(play.current(&volume).await, T2);
        assert!(volume.snapshot("S0").unwrap().broken);
        let options = ImageOptions { sequence: Some(Seq(moment)), ..ImageOptions::default() };
        let refused = volume.image(options).await.unwrap_err();
        assert_eq!(*refused.reason(), Reason::SnapshotBroken { moment });
        volume.delete_snapshot("S0").await.unwrap();
        volume.create_snapshot("S1").await.unwrap();
        play.write(&volume, 1, b'b', 0).await;
        assert_eq!(play.shown(&volume, "S1").await, T2);
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&play.rig).await;
    });
}
