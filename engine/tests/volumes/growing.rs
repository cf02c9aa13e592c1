//! Growing a pool: R-08 in full, cuts at every request of it, and what is refused.
//!
//! Where regions lie is read from the disk itself. A segment that the log has written begins with a header, so that
//! one which begins with a block of letters is a region of the volume, at home.

use icecore::check;
use icecore::error::{Error, Kind, Reason};
use icecore::format::superblock::COPY_OFFSETS;
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{ApplyMode, ApplyOptions, CreateOptions, Durability, Grown, OpenMode, Volume};

use crate::vlog::{self, BLOCK, MIB, Rig, SEGMENT_BYTES, WRITES, cut_at_each_request, is_sound, small};

/// A region is a segment: space is taken for one at a time.
const REGION: u64 = SEGMENT_BYTES;
const MANUAL: ApplyOptions = ApplyOptions { mode: ApplyMode::Strict, ..vlog::MANUAL };

fn options(backend: Backend) -> CreateOptions {
    CreateOptions { region_bytes: REGION as u32, ..small(backend) }
}

fn thin() -> CreateOptions {
    CreateOptions { thin: true, size_bytes: Some(64 * MIB), ..options(Backend::Linear) }
}

async fn grow(rig: &Rig) -> Result<Grown, Error> {
    Volume::grow(&rig.device()).await
}

/// The letters with which segments of the pool begin: regions at home.
fn at_home(rig: &Rig, volume: &Volume) -> String {
    let (offset, segments) = (volume.info().data_offset_bytes, log(volume).segments);
    let begins = (0..u64::from(segments)).map(|at| rig.disk.peek(offset + at * REGION, BLOCK as usize));
    let letters =
        begins.filter(|bytes| bytes[0].is_ascii_alphanumeric() && *bytes == vec![bytes[0]; BLOCK as usize]);
    let mut letters: Vec<char> = letters.map(|bytes| char::from(bytes[0])).collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}
fn log(volume: &Volume) -> icecore::store::log::LogStatus {
    volume.status().log.unwrap()
}

fn extents(volume: &Volume) -> u32 {
    log(volume).apply.unwrap().extents
}

async fn write(volume: &Volume, region: u64, letter: u8) -> Result<(), Error> {
    vlog::write_at(volume, region * REGION, letter, Durability::Durable).await
}

/// The first three writes of V-LOG.
async fn write_three(volume: &Volume) {
    for (region, letter) in &WRITES[..3] {
        write(volume, *region, *letter).await.unwrap();
    }
}

async fn current(volume: &Volume) -> String {
    vlog::current_of(volume, REGION).await
}

/// Takes space for regions from 8 on until so many segments are free. How many it has filled.
async fn fill_until(volume: &Volume, free: u32) -> u64 {
    let mut filled = 0;
    while log(volume).free_segments > free {
        write(volume, 8 + filled, b'-').await.unwrap();
        volume.apply(None).await.unwrap();
        filled += 1;
    }
    assert_eq!(log(volume).free_segments, free);
    filled
}

#[test]
fn space_is_taken_when_a_region_is_first_applied_and_given_back_by_a_discard() {
    let rig = Rig::new(1, 5 * MIB, thin());
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_three(&volume).await;
        assert_eq!((extents(&volume), at_home(&rig, &volume).as_str()), (0, ""));
        volume.apply(None).await.unwrap();
        assert_eq!((extents(&volume), at_home(&rig, &volume).as_str()), (2, "1z"));
        assert_eq!(current(&volume).await, "1..z....");
        volume.discard(ByteOffset(0), REGION).await.unwrap();
        volume.apply(None).await.unwrap();
        assert_eq!((extents(&volume), current(&volume).await.as_str()), (1, "...z...."));
    });
}

#[test]
fn applying_that_stalled_for_want_of_space_drains_once_the_pool_has_grown() {
    let rig = Rig::new(2, 4 * MIB, thin());
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        let filled = fill_until(&volume, 1).await;
        write_three(&volume).await;
        let stalled =
            |error: &Error| matches!(error.reason(), Reason::ApplyStalled { why } if why.contains("grow it"));
        let error = volume.apply(None).await.unwrap_err();
        assert!(stalled(&error), "{error}");
        // Region 0 has taken what there was; region 3 stays in the log, and so does what comes after it.
        assert_eq!((u64::from(extents(&volume)), at_home(&rig, &volume).as_str()), (filled + 1, "x"));
        assert_eq!(current(&volume).await, "1..z....");
        assert!(log(&volume).apply.unwrap().stalled.is_some());
        drop(volume);
        rig.disk.cut_power();
        // Without growing, nothing changes by opening again.
        let volume = rig.open(MANUAL).await;
        assert!(stalled(&volume.apply(None).await.unwrap_err()));
        assert_eq!((current(&volume).await.as_str(), at_home(&rig, &volume).as_str()), ("1..z....", "x"));
        let segments = log(&volume).segments;
        drop(volume);
        rig.disk.cut_power();
        rig.disk.resize(8 * MIB);
        let grown = grow(&rig).await.unwrap();
        assert_eq!((grown.before_bytes, grown.info.size_bytes), (u64::from(segments) * REGION, 64 * MIB));
        assert!(grown.after_bytes >= grown.before_bytes + 2 * MIB, "{grown:?}");
        let volume = rig.open(MANUAL).await;
        assert_eq!(u64::from(log(&volume).segments) * REGION, grown.after_bytes);
        assert_eq!(current(&volume).await, "1..z....");
        volume.apply(None).await.unwrap();
        assert_eq!((u64::from(extents(&volume)), at_home(&rig, &volume).as_str()), (filled + 2, "1z"));
        assert_eq!(current(&volume).await, "1..z....");
        volume.close().await.unwrap();
        drop(volume);
        let volume = rig.open(ApplyOptions::default()).await;
        assert_eq!(current(&volume).await, "1..z....");
        // And the new room is really used.
        fill_until(&volume, 1).await;
        assert!(u64::from(extents(&volume)) > filled + 30);
        assert_eq!(current(&volume).await, "1..z....");
    });
}

/// A volume that waits for space, with entries applied and not applied, on a device that has become larger.
fn stalled(seed: u64) -> (Rig, u32) {
    let rig = Rig::new(seed, 4 * MIB, thin());
    let segments = rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        fill_until(&volume, 1).await;
        write_three(&volume).await;
        volume.apply(None).await.unwrap_err();
        log(&volume).segments
    });
    rig.disk.cut_power();
    rig.disk.resize(8 * MIB);
    (rig, segments)
}

#[test]
fn a_cut_at_any_request_of_growing_leaves_the_old_pool_or_the_new_one() {
    let (mut as_before, mut grown) = (0, 0);
    for seed in 0..4 {
        let cuts = cut_at_each_request(|cut_at| {
            let (rig, segments) = stalled(seed);
            rig.runtime.block_on(async {
                let ended = rig.run_until(cut_at, async { grow(&rig).await.unwrap() }).await;
                rig.disk.cut_power();
                is_sound(&rig).await;
                let volume = rig.open(MANUAL).await;
                let place = format!("seed {seed}, cut at request {cut_at}");
                assert_eq!(current(&volume).await, "1..z....", "{place}");
                if log(&volume).segments == segments {
                    as_before += 1;
                    assert!(volume.apply(None).await.is_err(), "{place}");
                    drop(volume);
                    rig.disk.cut_power();
                    grow(&rig).await.unwrap();
                } else {
                    grown += 1;
                    drop(volume);
                    rig.disk.cut_power();
                }
                let volume = rig.open(MANUAL).await;
                assert!(log(&volume).segments > segments + 30, "{place}");
                volume.apply(None).await.unwrap();
                assert_eq!(current(&volume).await, "1..z....", "{place}");
                assert_eq!(at_home(&rig, &volume), "1z", "{place}");
                ended
            })
        });
        assert!(cuts > 21, "{cuts} cuts");
    }
    println!("{as_before} times the old pool, {grown} times the new one");
    assert!(as_before > 20 && grown > 4, "{as_before} {grown}");
}

/// The control of the test above: a superblock that names the new pool before that is there opens nothing.
#[test]
fn a_superblock_written_too_early_is_noticed() {
    let (rig, _) = stalled(5);
    let early = rig.disk.after_cut(&rig.calendar, |_, _| true);
    rig.runtime.block_on(async {
        grow(&rig).await.unwrap();
        for offset in COPY_OFFSETS {
            early.poke(offset, &rig.disk.peek(offset, BLOCK as usize));
        }
        let device = early.open(rig.runtime.context()).unwrap();
        let error = Volume::open(device, OpenMode::ReadWrite).await.unwrap_err();
        assert_eq!(*error.reason(), Reason::MetadataDamaged);
    });
}

#[test]
fn a_log_keeps_its_past_and_passes_the_check_each_time_it_grows() {
    let made = CreateOptions { retention_bytes: 2 * MIB, size_bytes: Some(MIB), ..options(Backend::Log) };
    let rig = Rig::new(3, 8 * MIB, made);
    rig.runtime.block_on(async {
        let mut moments = Vec::new();
        let mut free = Vec::new();
        for (round, bytes) in [8 * MIB, 12 * MIB, 16 * MIB].into_iter().enumerate() {
            if round > 0 {
                rig.disk.resize(bytes);
                grow(&rig).await.unwrap();
                let device = rig.device();
                let report = check::check(&device, &mut |_| {}).await.unwrap();
                assert_eq!((report.damage, report.findings), (0, Vec::new()), "{bytes}");
                assert!(report.blocks > 0);
            }
            let volume = rig.open(ApplyOptions::default()).await;
            free.push(log(&volume).free_segments);
            for letter in [b'a', b'b', b'c'] {
                write(&volume, 3, letter + 3 * round as u8).await.unwrap();
                moments.push((volume.info().sequence, letter + 3 * round as u8));
            }
            for (sequence, letter) in &moments {
                let options = ImageOptions { sequence: Some(Seq(sequence.0)), ..ImageOptions::default() };
                let image = volume.image(options).await.unwrap();
                let buf = volume.context().buffers().get(BLOCK as usize).unwrap();
                let (result, buf) = image.read(ByteOffset(3 * REGION), buf).await;
                result.unwrap();
                assert_eq!(buf[..], [*letter; BLOCK as usize], "round {round}, {sequence:?}");
            }
            // One round ends in order, the next one with a cut.
            if round == 0 {
                volume.close().await.unwrap();
            }
            drop(volume);
            rig.disk.cut_power();
        }
        assert!(free[0] + 30 < free[1] && free[1] + 50 < free[2], "{free:?}");
    });
}

/// With so many segments that the rounding of the areas does not hide how much room each row has.
#[test]
fn a_pool_of_many_segments_passes_the_check_before_and_after_it_grows() {
    for made in [options(Backend::Log), options(Backend::Linear), thin()] {
        let size_bytes = Some(made.size_bytes.unwrap_or(32 * MIB));
        let rig = Rig::new(7, 64 * MIB, CreateOptions { size_bytes, ..made });
        rig.runtime.block_on(async {
            for bytes in [64 * MIB, 128 * MIB] {
                if bytes > 64 * MIB {
                    rig.disk.resize(bytes);
                    grow(&rig).await.unwrap();
                }
                let volume = rig.open(ApplyOptions::default()).await;
                assert!(u64::from(log(&volume).segments) * REGION > bytes * 3 / 4);
                write_three(&volume).await;
                volume.close().await.unwrap();
                drop(volume);
                rig.disk.cut_power();
                let device = rig.device();
                let report = check::check(&device, &mut |_| {}).await.unwrap();
                assert_eq!((report.damage, report.findings), (0, Vec::new()), "{:?} {bytes}", made.backend);
                assert!(report.blocks >= 2);
            }
        });
    }
}

#[test]
fn what_cannot_grow_is_refused_by_name_and_nothing_is_written() {
    let bytes = 16 * MIB + 3 * BLOCK;
    let made = |options| Rig::new(4, bytes, CreateOptions { size_bytes: Some(4 * MIB), ..options });
    let refused = |rig: &Rig, bytes: u64| {
        rig.disk.resize(bytes);
        let hash = rig.disk.hash();
        let error = rig.runtime.block_on(grow(rig)).unwrap_err();
        assert_eq!(rig.disk.hash(), hash, "{error}");
        assert!(error.to_string().contains("disk"), "{error}");
        error
    };
    let rig = made(CreateOptions::new(Backend::Direct));
    assert_eq!(*refused(&rig, 32 * MIB).reason(), Reason::CannotGrow { why: "only a pool with a log grows" });
    let rig = made(options(Backend::Log));
    // Everything of the pool still fits, and then not.
    let error = refused(&rig, bytes - BLOCK);
    assert_eq!(*error.reason(), Reason::CannotShrink { was_bytes: bytes, found_bytes: bytes - BLOCK });
    let error = refused(&rig, 8 * MIB);
    assert!(matches!(*error.reason(), Reason::DeviceTooSmall { found_bytes, .. } if found_bytes == 8 * MIB));
    let error = refused(&rig, bytes);
    let Reason::DeviceTooSmall { needed_bytes, found_bytes } = *error.reason() else { panic!("{error}") };
    assert_eq!((error.kind(), found_bytes), (Kind::NoSpace, bytes));
    // Just that much is needed and is enough.
    assert_eq!(refused(&rig, needed_bytes - BLOCK).kind(), Kind::NoSpace);
    rig.disk.resize(needed_bytes);
    let grown = rig.runtime.block_on(grow(&rig)).unwrap();
    assert_eq!(grown.after_bytes, grown.before_bytes + REGION);
}

#[test]
fn a_damaged_page_of_the_index_is_not_copied() {
    let rig = Rig::new(6, 8 * MIB, CreateOptions { size_bytes: Some(MIB), ..options(Backend::Log) });
    rig.runtime.block_on(async {
        let volume = rig.open(ApplyOptions::default()).await;
        write(&volume, 3, b'a').await.unwrap();
        volume.close().await.unwrap();
        drop(volume);
    });
    let page = (MIB..8 * MIB).step_by(4096).find(|at| rig.disk.peek(*at, 8) == b"ICEINDEX").unwrap();
    let byte = rig.disk.peek(page + 100, 1)[0];
    rig.disk.poke(page + 100, &[byte ^ 1]);
    rig.disk.resize(16 * MIB);
    let superblock = rig.disk.peek(0, 4096);
    let error = rig.runtime.block_on(grow(&rig)).unwrap_err();
    assert_eq!((error.reason(), error.place().offset), (&Reason::MetadataDamaged, Some(page)));
    assert_eq!(rig.disk.peek(0, 4096), superblock);
}
