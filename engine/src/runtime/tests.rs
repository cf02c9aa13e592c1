//! The runtime's own promises: tasks, timers, wakes from other threads, and who owns a buffer when.

use std::cell::Cell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::executor::Operate;
use super::*;

fn runtimes() -> Vec<Runtime> {
    let blocking = RuntimeOptions { io_mode: IoMode::Blocking, ..RuntimeOptions::default() };
    let mut all = vec![Runtime::new(blocking).unwrap()];
    match Runtime::new(RuntimeOptions::default()) {
        Ok(runtime) => all.push(runtime),
        Err(error) => eprintln!("skipped for io_uring: {error}"),
    }
    all
}

/// A runtime over io_uring, or `None` with the reason printed where the system has none.
fn uring(quarantine_buffers: usize) -> Option<Runtime> {
    let buffers = BufPoolOptions { quarantine_buffers, ..BufPoolOptions::default() };
    Runtime::new(RuntimeOptions { buffers, ..RuntimeOptions::default() })
        .inspect_err(|error| eprintln!("skipped: {error}"))
        .ok()
}

fn read<'a>(context: &'a Context, target: &Target, length: usize) -> Operate<'a> {
    let buf = context.buffers().zeroed(length).unwrap();
    let kind = OperationKind::Read;
    let operation = Operation {
        kind,
        target: target.clone(),
        offset: 0,
        length: length as u64,
        guard: None,
        failed: None,
    };
    context.operate(operation, Some(buf))
}

fn pipe(context: &Context) -> (Target, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    (Target::File(context.adopt_file(OwnedFd::from(reader), None)), writer)
}

#[test]
fn tasks_run_sleep_and_join() {
    for runtime in runtimes() {
        let context = runtime.context().clone();
        let order = Rc::new(Cell::new(0));
        let sum = runtime.block_on(async {
            let tasks: Vec<Task<u64>> = (0..10)
                .map(|number| {
                    let (context, order) = (context.clone(), Rc::clone(&order));
                    context.clone().spawn(async move {
                        context.sleep((10 - number) * 1_000_000).await;
                        order.set(order.get() * 10 + number);
                        number
                    })
                })
                .collect();
            join_all(tasks).await.into_iter().map(Option::unwrap).sum::<u64>()
        });
        assert_eq!(sum, 45);
        assert_eq!(order.get(), 9_876_543_210);
    }
}

#[test]
fn an_aborted_task_ends_without_a_result_and_drops_what_it_held() {
    for runtime in runtimes() {
        let context = runtime.context().clone();
        let held = Rc::new(());
        let given = Rc::clone(&held);
        let sleeper = context.clone();
        let task = context.spawn(async move {
            let _given = given;
            sleeper.sleep(u64::MAX / 2).await;
        });
        runtime.block_on(runtime.context().yield_now());
        assert_eq!(Rc::strong_count(&held), 2);
        task.abort();
        assert_eq!(Rc::strong_count(&held), 1);
        assert_eq!(runtime.block_on(task), None);
    }
}

#[test]
fn other_threads_reach_a_task_through_its_mailbox() {
    for runtime in runtimes() {
        let (sender, mut receiver) = mailbox::<u64>(4);
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for number in 0..1000 {
                        sender.send(thread * 1000 + number).unwrap();
                        if number % 100 == 0 {
                            std::thread::sleep(Duration::from_micros(200));
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        let mut seen = Vec::new();
        runtime.block_on(async {
            while let Some(number) = receiver.receive().await {
                seen.push(number);
            }
        });
        for thread in threads {
            thread.join().unwrap();
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..4000).collect::<Vec<_>>());
        let (sender, receiver) = mailbox::<u64>(1);
        drop(receiver);
        assert_eq!(sender.send(7), Err(7));
    }
}

#[test]
fn a_dropped_read_keeps_its_slot_and_buffer_until_the_kernel_is_done() {
    let Some(runtime) = uring(64) else { return };
    let context = runtime.context().clone();
    let (target, mut writer) = pipe(&context);
    runtime.block_on(async {
        let mut reading = Box::pin(read(&context, &target, 4096));
        std::future::poll_fn(|poll| {
            assert!(reading.as_mut().poll(poll).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        assert_eq!(context.operations_in_use(), 1);
        drop(reading);
        assert_eq!(context.operations_in_use(), 1, "the kernel may still write to it");
        assert_eq!(context.buffers().quarantine_intact(), (0, true), "so the buffer is not freed");
        while context.operations_in_use() > 0 {
            context.yield_now().await;
        }
        assert_eq!(context.buffers().quarantine_intact(), (1, true));
        writer.write_all(&[9; 4096]).unwrap();
        let (result, buf) = read(&context, &target, 4096).await;
        assert_eq!(result, Ok(4096));
        assert!(buf.unwrap().iter().all(|&byte| byte == 9));
        assert!(context.buffers().quarantine_intact().1, "the next read did not touch the freed buffer");
    });
}

#[test]
fn dropping_the_runtime_ends_what_is_in_flight() {
    let Some(runtime) = uring(0) else { return };
    let context = runtime.context().clone();
    let (target, writer) = pipe(&context);
    let reader = context.clone();
    context.spawn(async move {
        let _never = read(&reader, &target, 512).await;
    });
    runtime.block_on(runtime.context().yield_now());
    assert_eq!(context.operations_in_use(), 1);
    drop(runtime);
    assert_eq!(context.operations_in_use(), 0);
    drop(writer);
}

#[test]
fn operations_beyond_the_limit_wait_their_turn() {
    for io_mode in [IoMode::Uring, IoMode::Blocking] {
        let options = RuntimeOptions { io_mode, operations_max: 2, ..RuntimeOptions::default() };
        let Ok(runtime) = Runtime::new(options).inspect_err(|error| eprintln!("skipped: {error}")) else {
            continue;
        };
        let context = runtime.context().clone();
        let results = runtime.block_on(join_all((0..20).map(|_| read(&context, &Target::Null, 512))));
        assert!(results.iter().all(|(result, buf)| *result == Ok(512) && buf.is_some()));
        assert_eq!(context.operations_in_use(), 0);
    }
}

/// A task that waits for a slot with several operations is told of one once, and may need it no more: then the next one
/// must hear of it.
#[test]
fn nobody_who_waits_for_a_slot_is_forgotten() {
    for io_mode in [IoMode::Uring, IoMode::Blocking] {
        let options = RuntimeOptions { io_mode, operations_max: 8, ..RuntimeOptions::default() };
        let Ok(runtime) = Runtime::new(options).inspect_err(|error| eprintln!("skipped: {error}")) else {
            continue;
        };
        let context = runtime.context().clone();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let target = Target::File(context.adopt_file(OwnedFd::from(file), None));
        let several = |count: usize| {
            let (inner, target) = (context.clone(), target.clone());
            context.spawn(async move {
                for _ in 0..20 {
                    join_all((0..count).map(|_| read(&inner, &target, 512))).await;
                }
            })
        };
        let tasks: Vec<Task<()>> = [3, 40, 7, 1, 25, 12].map(several).into();
        let ended = runtime.block_on(async {
            for _ in 0..5_000 {
                if tasks.iter().all(Task::has_ended) {
                    return true;
                }
                context.sleep(1_000_000).await;
            }
            false
        });
        assert!(ended, "{io_mode:?}: some wait for ever");
    }
}

#[test]
fn a_file_stays_open_until_its_last_operation_has_ended() {
    let Some(runtime) = uring(0) else { return };
    let context = runtime.context().clone();
    let (target, mut writer) = pipe(&context);
    runtime.block_on(async {
        let mut reading = Box::pin(read(&context, &target, 4096));
        drop(target);
        std::future::poll_fn(|poll| {
            assert!(reading.as_mut().poll(poll).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        writer.write_all(&[3; 4096]).unwrap();
        assert_eq!(reading.await.0, Ok(4096));
    });
    assert!(writer.write_all(&[0]).is_err(), "the reading end is closed now");
}

#[test]
fn buffers_from_the_heap_work_beside_registered_ones() {
    let buffers = BufPoolOptions { arena_bytes: 8192, ..BufPoolOptions::default() };
    let Ok(runtime) = Runtime::new(RuntimeOptions { buffers, ..RuntimeOptions::default() })
        .inspect_err(|error| eprintln!("skipped: {error}"))
    else {
        return;
    };
    let context = runtime.context().clone();
    let (target, mut writer) = pipe(&context);
    writer.write_all(&[5; 16 * 512]).unwrap();
    let small: Vec<_> = (0..8).map(|_| context.buffers().get(4096).unwrap()).collect();
    assert!(small.iter().any(|buf| !buf.is_in_arena()));
    drop(small);
    let results = runtime.block_on(join_all((0..16).map(|_| read(&context, &target, 512))));
    for (result, buf) in results {
        assert_eq!((result, buf.unwrap()[511]), (Ok(512), 5));
    }
}
