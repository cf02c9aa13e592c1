//! in which order the disk of a linear volume gets what it gets. An entry goes home only when it is durable
//! in the log, and the log's space is free only when the entry is durable at home.
//!
//! Judged from the disk's recording, with batches and journal as they lie on the disk in the end.

use std::collections::BTreeMap;
use std::ops::Range;

use icecore::device::simulated::{Event, Recorded, SimulatedDisk};
use icecore::format::batch::{self, Decoded};
use icecore::format::journal::Change;
use icecore::runtime::OperationKind;
use icecore::volume::{ApplyMode, ApplyOptions, CreateOptions, Durability};

use crate::on_disk::records;
use crate::vlog::{BLOCK, Rig, SEGMENT_BYTES, linear, write_at};

/// Nothing of the past is kept, and applying follows the checkpoints; or so little that it follows close behind the log.
const RETENTION: [u64; 2] = [0, 6 * BLOCK];

/// An entry of the log: its block, and the batch that carries it, by place and length.
type Carried = BTreeMap<u64, (u64, u64, u64)>;

/// The entries behind `base`, by sequence, from the batches as they lie on the disk.
fn entries(disk: &SimulatedDisk, data: Range<u64>, base: u64) -> Carried {
    let mut entries = Carried::new();
    for at in data.step_by(BLOCK as usize) {
        let Decoded::Valid(batch) = batch::decode(&disk.peek(at, 2 * BLOCK as usize), at, BLOCK as u32)
        else {
            continue;
        };
        let sequences = batch.header.first_sequence.get()..;
        for (sequence, entry) in sequences.zip(&batch.entries).filter(|(sequence, _)| *sequence > base) {
            entries.insert(sequence, (entry.lba.get(), at, batch.header.total_bytes()));
        }
    }
    entries
}

/// A request, its arrival and its end, as places in the recording.
struct Request {
    kind: OperationKind,
    offset: u64,
    length: u64,
    arrived: usize,
    ended: usize,
}

fn requests(recorded: &[Recorded]) -> Vec<Request> {
    let mut requests: BTreeMap<u64, Request> = BTreeMap::new();
    for (at, one) in recorded.iter().enumerate() {
        let Recorded { ticket, kind, offset, length, .. } = *one;
        match one.event {
            Event::Arrived => {
                let ended = usize::MAX;
                requests.insert(ticket, Request { kind, offset, length, arrived: at, ended });
            }
            Event::Ended(result) => {
                assert!(result >= 0, "nothing fails here");
                if let Some(request) = requests.get_mut(&ticket) {
                    request.ended = at;
                }
            }
        }
    }
    requests.into_values().collect()
}

/// Plays writes that are durable now and then while they are applied, and judges the order of what the disk got. How
/// many home writes, and how many segments of the log that came free, it has judged.
fn order(retention_bytes: u64) -> Result<(usize, usize), String> {
    let rig = Rig::new(7, 16 << 20, CreateOptions { retention_bytes, ..linear(1 << 20) });
    rig.runtime.block_on(async {
        let strict = ApplyOptions { mode: ApplyMode::Strict, automatic: true, at_open: false };
        let (volume, home) = rig.with_base(strict).await;
        let (info, segments) = (volume.info(), u64::from(volume.status().log.unwrap().segments));
        let data = info.data_offset_bytes..info.data_offset_bytes + segments * SEGMENT_BYTES;
        let base = info.sequence.0;
        let known = records(&rig.disk).len();
        rig.disk.start_recording();
        for number in 0..400_u64 {
            let letter = b'A' + (number % 26) as u8;
            write_at(&volume, number * 5 % 8 * BLOCK, letter, Durability::OnFlush).await.unwrap();
            if number % 23 == 22 {
                volume.flush().await.unwrap();
            }
        }
        volume.apply(None).await.unwrap();
        let (recorded, last) = (rig.disk.recorded(), volume.info().sequence.0);
        let requests = requests(&recorded);
        let is_durable = |written: &Request, before: usize| {
            let through = written.kind == (OperationKind::Write { durable: true }) && written.ended < before;
            through
                || requests.iter().any(|one| {
                    one.kind == OperationKind::Flush && one.arrived > written.ended && one.ended < before
                })
        };
        let carried = entries(&rig.disk, data, base);
        assert!(carried.keys().copied().eq(base + 1..=last), "every batch is still there");
        // Strict applying writes each entry once: the n-th home write of a block is the n-th entry of it.
        let mut homes: BTreeMap<u64, &Request> = BTreeMap::new();
        for block in 0..8 {
            let at = home + block * BLOCK;
            let written: Vec<_> =
                requests.iter().filter(|one| one.offset == at && changes(one.kind)).collect();
            let of_block = carried.iter().filter(|(_, entry)| entry.0 == block);
            if written.len() != of_block.clone().count() {
                return Err(format!("block {block}: {} writes, not one for each entry", written.len()));
            }
            homes.extend(of_block.map(|(sequence, _)| *sequence).zip(written));
        }
        for (sequence, home) in &homes {
            let (_, at, length) = carried[sequence];
            let log =
                requests.iter().find(|one| (one.offset, one.length) == (at, length) && changes(one.kind));
            if !is_durable(log.expect("its batch was written"), home.arrived) {
                return Err(format!("entry {sequence} went home before it was durable in the log"));
            }
        }
        // A record of the journal that passes entries, or gives up their segment, comes after they are flushed at home.
        let (mut applied, mut freed) = (base, 0);
        let mut cursor = 0;
        for (address, changes_made) in records(&rig.disk).iter().skip(known) {
            let record = requests.iter().find(|one| one.offset == *address && changes(one.kind));
            let record = record.expect("the record was written").arrived;
            for change in changes_made {
                if let Change::Applied(now) = change {
                    (applied, cursor) = (now.sequence.get(), now.virtual_segment.get());
                }
            }
            for change in changes_made {
                if let Change::RowRemoved(number) = change {
                    freed += 1;
                    if *number >= cursor {
                        return Err(format!(
                            "segment {number} of the log is free, the cursor is at {cursor}"
                        ));
                    }
                }
            }
            let early = homes.range(..=applied).find(|(_, home)| !is_durable(home, record));
            if let Some((sequence, _)) = early {
                return Err(format!("entry {sequence} is passed before it is durable at home"));
            }
        }
        Ok((homes.len(), freed))
    })
}

fn changes(kind: OperationKind) -> bool {
    !matches!(kind, OperationKind::Read | OperationKind::Flush)
}

/// first durable in the log, then at home, then flushed there, and only then is the log's space free.
#[test]
fn an_entry_goes_home_after_it_is_durable_and_its_log_is_free_after_that() {
    for retention_bytes in RETENTION {
        let (homes, freed) = order(retention_bytes).unwrap();
        println!("{homes} home writes, {freed} segments of the log came free");
        assert!(homes == 400 && freed > 10);
    }
}

/// The control of the test above.
#[cfg(feature = "mutations")]
#[test]
fn planted_faults_of_that_order_are_found() {
    use icecore::mutation::{Mutation, switch};
    for mutation in [Mutation::AppliedBeforeDurable, Mutation::CursorBeforeHome, Mutation::FreedBeforeCursor]
    {
        switch(Some(mutation));
        let found = RETENTION.map(order);
        switch(None);
        println!("{mutation:?}: {found:?}");
        assert!(found.iter().any(Result::is_err), "{mutation:?}");
    }
}
