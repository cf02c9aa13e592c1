//! The same recovery on a simulated disk that loses power: times are virtual, and called simulated everywhere.
//!
//! The disk keeps of what was not durable what chance lets it keep, whole or torn at any sector, so that this sees
//! states that a killed process never leaves.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use icecore::device::simulated::SimulatedDisk;
use icecore::runtime::{Runtime, Task};
use icecore::volume::{OpenMode, Volume};

use super::victim::{KILL, Writers};
use super::{Acknowledged, AfterKill, Case, create_options, time_open};
use crate::failure::Failure;
use crate::interrupt;
use crate::results::RecoveryRow;

/// How often it is looked whether the power is gone, in virtual time.
const LOOK_NS: u64 = 1_000_000;
const LOGICAL_BLOCK_BYTES: u32 = 4096;

/// Makes a volume, cuts the power while it is written, and opens it again.
pub(super) fn one(case: &Case, device_bytes: u64, after_kill: AfterKill) -> Result<RecoveryRow, Failure> {
    let (runtime, calendar) = Runtime::simulated(case.seed)?;
    let disk = SimulatedDisk::new(&calendar, case.seed, "simulated disk", device_bytes, LOGICAL_BLOCK_BYTES);
    on_disk(&runtime, &disk, case, device_bytes, after_kill)
}

fn on_disk(
    runtime: &Runtime,
    disk: &SimulatedDisk,
    case: &Case,
    device_bytes: u64,
    after_kill: AfterKill,
) -> Result<RecoveryRow, Failure> {
    let context = runtime.context();
    let acknowledged: Rc<RefCell<Acknowledged>> = Rc::default();
    let dark = Rc::new(Cell::new(false));
    let info = runtime.block_on(async {
        let info = Volume::create(&disk.open(context)?, create_options(case)).await?;
        let volume = Volume::open(disk.open(context)?, OpenMode::ReadWrite).await?;
        let (power, told, cut) = (disk.clone(), Rc::clone(&acknowledged), Rc::clone(&dark));
        let tell = move |block, generation| {
            if block == KILL {
                // With everything that is in flight.
                power.cut_power();
                cut.set(true);
            } else if !cut.get() {
                told.borrow_mut().insert(block, generation);
            }
            Ok(())
        };
        let kill_bytes = case.kill_bytes(&info);
        let writers = Writers::new(volume, case.seed, case.queue_depth, kill_bytes, Box::new(tell)).start();
        while !dark.get() {
            if interrupt::requested() {
                return Err(Failure::interrupted());
            }
            // They end with an error alone, and then nobody will cut the power.
            if writers.iter().all(Task::has_ended) {
                return Err(first_failure(writers).await);
            }
            context.sleep(LOOK_NS).await;
        }
        writers.iter().for_each(Task::abort);
        Ok::<_, Failure>(info)
    })?;
    let mut acknowledged = acknowledged.take();
    after_kill(Path::new("simulated disk"), &mut acknowledged);
    let row = case.row("simulated", device_bytes, &info);
    Ok(time_open(runtime, || disk.open(context), &acknowledged, row))
}

async fn first_failure(writers: Vec<Task<Result<(), Failure>>>) -> Failure {
    for writer in writers {
        if let Some(Err(failure)) = writer.await {
            return failure;
        }
    }
    Failure::environment("every writer ended before the power was cut")
}

#[cfg(test)]
mod tests {
    use icecore::device::simulated::Fault;
    use icecore::runtime::OperationKind;

    use super::*;

    #[test]
    fn writers_that_all_fail_end_it_with_the_first_failure() {
        const DEVICE_BYTES: u64 = 64 << 20;
        let case = Case {
            volume_bytes: Some(16 << 20),
            checkpoint_bytes: None,
            queue_depth: 4,
            tail_percent: 90,
            seed: 1,
        };
        let (runtime, calendar) = Runtime::simulated(case.seed).unwrap();
        let disk = SimulatedDisk::new(&calendar, case.seed, "failing", DEVICE_BYTES, LOGICAL_BLOCK_BYTES);
        let mut writes = 0;
        // Once the volume is there and open.
        disk.set_plan(Box::new(move |request, _| {
            writes += u32::from(matches!(request.kind, OperationKind::Write { .. }));
            (writes > 100).then_some(Fault::Fail(libc::EIO))
        }));
        let failure = on_disk(&runtime, &disk, &case, DEVICE_BYTES, &mut |_, _| {}).unwrap_err();
        assert!(failure.message.contains("failing"), "{failure}");
    }
}
