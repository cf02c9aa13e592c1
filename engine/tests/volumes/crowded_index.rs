//! Writes wait for a checkpoint when the versions that only it can write down fill the memory of the index: a device
//! that is slow to flush does not make the process grow.
//!
//! On a simulated disk that holds every flush, so that no checkpoint ends.

use std::cell::Cell;
use std::rc::Rc;

use icecore::device::simulated::Fault;
use icecore::runtime::OperationKind;
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, OpenOptions, Volume};

use crate::vlog::{BLOCK, MIB, Rig, byte_at, small, write_at};

const INDEX_BYTES: usize = 128 << 10;
const TASKS: u64 = 16;
const WRITES: u64 = 32;
/// Each write goes to a page of the index of its own.
const STRIDE: u64 = 64 * BLOCK;
/// Of such a page.
const PAGE_BYTES: usize = 2048;

async fn crowd(volume: &Volume, task: u64, ended: &Cell<u64>) {
    for number in 0..WRITES {
        let at = (number * TASKS + task) * STRIDE;
        write_at(volume, at, task as u8 + 1, Durability::OnFlush).await.unwrap();
        ended.set(ended.get() + 1);
    }
}

#[test]
fn writes_wait_for_the_checkpoint_that_their_versions_need() {
    let options = CreateOptions {
        size_bytes: Some(TASKS * WRITES * STRIDE),
        segment_bytes: Some(1 << 20),
        checkpoint_bytes: Some(16 * MIB),
        ..small(Backend::Log)
    };
    let rig = Rig::new(1, 512 * MIB, options);
    rig.runtime.block_on(async {
        let options = OpenOptions { index_bytes: INDEX_BYTES, ..OpenOptions::default() };
        let volume = rig.open_with(options).await;
        let held = Rc::new(Cell::new(true));
        let holding = Rc::clone(&held);
        rig.disk.set_plan(Box::new(move |request, _| {
            (holding.get() && request.kind == OperationKind::Flush).then_some(Fault::Hold)
        }));
        let ended = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (volume, ended) = (volume.clone(), Rc::clone(&ended));
                volume.context().clone().spawn(async move { crowd(&volume, task, &ended).await })
            })
            .collect();
        rig.runtime.context().sleep(5_000_000_000).await;
        let memory_bytes = volume.status().log.unwrap().index_memory_bytes;
        assert!(ended.get() > 0 && ended.get() < TASKS * WRITES, "{} have ended", ended.get());
        // What waits to be written holds a page, too.
        let allowed_bytes = INDEX_BYTES + TASKS as usize * PAGE_BYTES;
        assert!(memory_bytes <= allowed_bytes, "{memory_bytes} of {allowed_bytes} after {}", ended.get());
        // What has been written can be read meanwhile.
        assert_eq!(byte_at(&volume, 0).await.unwrap(), 1);
        held.set(false);
        rig.disk.tickets().into_iter().for_each(|ticket| rig.disk.release_held(ticket));
        for task in tasks {
            task.await.unwrap();
        }
        for page in 0..TASKS * WRITES {
            assert_eq!(byte_at(&volume, page * STRIDE).await.unwrap(), (page % TASKS) as u8 + 1);
        }
        let memory_bytes = volume.status().log.unwrap().index_memory_bytes;
        assert!(memory_bytes <= allowed_bytes, "{memory_bytes} of {allowed_bytes} in the end");
        // A discard of all of it brings many versions with one entry.
        volume.discard(ByteOffset(0), TASKS * WRITES * STRIDE).await.unwrap();
        assert_eq!(byte_at(&volume, STRIDE).await.unwrap(), 0);
        volume.close().await.unwrap();
    });
}
