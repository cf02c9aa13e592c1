//! A target whose speed is known, for tests of loads.

use icecore::buf::Buf;
use icecore::error::Result;
use icecore::runtime::{Context, IoMode, Runtime, RuntimeOptions};
use icecore_workloads::Workload;

use super::engine::{self, Content};
use super::target::Target;
use crate::measure::{ArmOutcome, ArmTask};
use crate::recorder::Clock;

pub(super) const MS: u64 = 1_000_000;
/// Operations that are served at once.
pub(super) const DEPTH: u32 = 4;

/// Takes so long for an operation that begins at a time since it was made.
#[derive(Clone)]
struct Served {
    context: Context,
    made: Clock,
    service_ns: fn(u64) -> u64,
}

impl Target for Served {
    const FLUSHES_APART: bool = false;

    async fn read(&self, _offset_bytes: u64, buf: Buf) -> (Result<()>, Buf) {
        self.context.sleep((self.service_ns)(self.made.now_ns())).await;
        (Ok(()), buf)
    }

    async fn write(&self, offset_bytes: u64, buf: Buf, _durable: bool) -> (Result<()>, Buf) {
        self.read(offset_bytes, buf).await
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// A load on it, by warm-up and measured time; `change` says what else is to be other than a closed load.
pub(super) fn run(
    workload: &str,
    (warmup_ns, measure_ns): (u64, u64),
    service_ns: fn(u64) -> u64,
    change: impl FnOnce(&mut ArmTask),
) -> ArmOutcome {
    let blocking = RuntimeOptions { io_mode: IoMode::Blocking, ..RuntimeOptions::default() };
    let runtime =
        Runtime::new(RuntimeOptions::default()).or_else(|_| Runtime::new(blocking)).expect("a runtime");
    let mut task = ArmTask {
        path: "served".into(),
        span_offset_bytes: 0,
        span_bytes: 1 << 24,
        workload: Workload::from_name(workload).expect("a known name"),
        queue_depth: DEPTH,
        warmup_ns,
        measure_ns,
        seed: 3,
        offered_per_second: None,
        replay: None,
        until_steady: false,
    };
    change(&mut task);
    let target = Served { context: runtime.context().clone(), made: Clock::start(), service_ns };
    engine::run(&runtime, target, &task, Content::AsItIs).expect("a measurement")
}
