//! What the engine's own parts cost: executor, timers, slab, range lock, device door, volume.
//!
//! Everything runs on the null device, so no I/O is in the figures. Run with
//! `cargo bench -p icecore --bench hot_path`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use icecore::device::{Cause, Device, Io};
use icecore::runtime::{IoMode, RangeLock, Runtime, RuntimeOptions};
use icecore::units::ByteOffset;

const TURNS: u64 = 1000;

fn runtime() -> Runtime {
    match Runtime::new(RuntimeOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => panic!("{error}"),
    }
}

fn executor(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("executor");
    group.throughput(Throughput::Elements(TURNS));
    let runtime = runtime();
    group.bench_function("yield", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                for _ in 0..TURNS {
                    runtime.context().yield_now().await;
                }
            });
        });
    });
    group.bench_function("spawn and join", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                for number in 0..TURNS {
                    black_box(runtime.context().spawn(async move { number }).await);
                }
            });
        });
    });
    group.finish();
}

/// How long a sleep of 1 ms takes.
fn timers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sleep of 1 ms");
    for io_mode in [IoMode::Uring, IoMode::Blocking] {
        let runtime = match Runtime::new(RuntimeOptions { io_mode, ..RuntimeOptions::default() }) {
            Ok(runtime) => runtime,
            Err(error) => panic!("{error}"),
        };
        group.bench_function(format!("{io_mode:?}"), |bencher| {
            bencher.iter(|| runtime.block_on(runtime.context().sleep(1_000_000)));
        });
    }
    group.finish();
}

/// `depth` tasks write 4 KiB to the null device: slab, completion, wake and poll of each.
fn device_door(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("device door, null");
    for depth in [1, 32] {
        group.throughput(Throughput::Elements(depth * TURNS));
        let runtime = runtime();
        let device = Device::null(runtime.context(), 1 << 30);
        group.bench_function(format!("write 4 KiB, depth {depth}"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let tasks: Vec<_> = (0..depth)
                        .map(|task| {
                            let device = device.clone();
                            runtime.context().spawn(async move {
                                let mut buf = device.context().buffers().get(4096).ok()?;
                                for turn in 0..TURNS {
                                    let at = ByteOffset((task * TURNS + turn) % 1024 * 4096);
                                    buf = device.write(at, buf, Io::of(Cause::Application)).await.1;
                                }
                                Some(())
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await;
                    }
                });
            });
        });
    }
    group.finish();
}

fn range_lock(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("range lock");
    let runtime = runtime();
    for held in [0, 31] {
        let lock = RangeLock::default();
        let guards: Vec<_> = runtime.block_on(async {
            let mut guards = Vec::new();
            for index in 0..held {
                guards.push(lock.lock(index * 4096, (index + 1) * 4096).await);
            }
            guards
        });
        group.bench_function(format!("lock and unlock, {held} held"), |bencher| {
            bencher.iter(|| runtime.block_on(async { drop(lock.lock(1 << 20, (1 << 20) + 4096).await) }));
        });
        drop(guards);
    }
    group.finish();
}

fn buffers(criterion: &mut Criterion) {
    let runtime = runtime();
    criterion.bench_function("buffer, get and give back", |bencher| {
        bencher.iter(|| drop(black_box(runtime.context().buffers().get(4096))));
    });
}

criterion_group!(benches, executor, timers, device_door, range_lock, buffers);
criterion_main!(benches);
