//! What a socket promises, on both drivers: order, gathering without copies, short receives, an end that is seen, buffers that stay
//! where the kernel has them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::super::{IoMode, Runtime, RuntimeOptions};
use super::*;
use crate::buf::BufPoolOptions;

fn runtimes(quarantine_buffers: usize) -> Vec<Runtime> {
    let buffers = BufPoolOptions { quarantine_buffers, ..BufPoolOptions::default() };
    let of = |io_mode| Runtime::new(RuntimeOptions { io_mode, buffers, ..RuntimeOptions::default() });
    let mut all = vec![of(IoMode::Blocking).unwrap()];
    match of(IoMode::Uring) {
        Ok(runtime) => all.push(runtime),
        Err(error) => eprintln!("skipped for io_uring: {error}"),
    }
    all
}

fn pair(runtime: &Runtime) -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Socket::adopt(runtime.context(), ours.into()).unwrap(), theirs)
}

#[test]
fn what_is_gathered_arrives_in_its_order_however_short_the_sends_are() {
    for runtime in runtimes(0) {
        let (socket, mut theirs) = pair(&runtime);
        let context = runtime.context();
        let gather = Gather::new(context, 4096).unwrap();
        let mut expected = Vec::new();
        // More than a socket holds, so that the send is cut into several.
        for number in 0..40_u8 {
            let mut buf = context.buffers().get(65_536 + usize::from(number)).unwrap();
            buf.fill(number);
            gather.add(&[0xA0, number]);
            gather.add(&[0xB0]);
            expected.extend_from_slice(&[0xA0, number, 0xB0]);
            expected.extend_from_slice(&buf);
            gather.add_whole(buf);
        }
        gather.add(b"end");
        expected.extend_from_slice(b"end");
        assert_eq!(gather.bytes(), expected.len());
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        runtime.block_on(socket.send(&gather)).unwrap();
        let mut back = 0;
        gather.clear(|buf| {
            assert!(buf.iter().all(|byte| *byte == back), "buffers come back in their order");
            back += 1;
        });
        assert_eq!((back, gather.bytes()), (40, 0));
        drop(socket);
        assert!(reading.join().unwrap() == expected, "{}", context.io_path());
    }
}

#[test]
fn receiving_ends_with_what_there_is_and_says_when_there_is_no_more() {
    for runtime in runtimes(0) {
        let (socket, mut theirs) = pair(&runtime);
        runtime.block_on(async {
            let buf = runtime.context().buffers().zeroed(4096).unwrap();
            theirs.write_all(b"abc").unwrap();
            let (result, buf) = socket.receive(buf, 0, 4096).await;
            assert_eq!((result.unwrap(), &buf[..4]), (3, &b"abc\0"[..]));
            theirs.write_all(b"de").unwrap();
            let (result, buf) = socket.receive(buf, 3, 100).await;
            assert_eq!((result.unwrap(), &buf[..6]), (2, &b"abcde\0"[..]));
            theirs.write_all(&[7; 5000]).unwrap();
            let (result, buf) = socket.receive(buf, 4000, 96).await;
            assert_eq!((result.unwrap(), buf[3999], buf[4000], buf[4095]), (96, 0, 7, 7), "up to the end");
            // What comes later wakes whoever waits; the other end's end is no error.
            let later = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(30));
                drop(theirs);
            });
            let mut buf = buf;
            loop {
                let (result, back) = socket.receive(buf, 0, 4096).await;
                buf = back;
                if result.unwrap() == 0 {
                    break;
                }
            }
            later.join().unwrap();
        });
    }
}

#[test]
fn receiving_and_sending_go_on_beside_each_other_and_beside_timers() {
    for runtime in runtimes(0) {
        let (socket, mut theirs) = pair(&runtime);
        let context = runtime.context().clone();
        let socket = Rc::new(socket);
        let echo = std::thread::spawn(move || {
            let mut bytes = [0; 1000];
            for _ in 0..200 {
                theirs.read_exact(&mut bytes).unwrap();
                theirs.write_all(&bytes).unwrap();
            }
        });
        let receiving = Rc::clone(&socket);
        let inner = context.clone();
        let received = context.spawn(async move {
            let mut buf = inner.buffers().get(512).unwrap();
            let mut total = 0;
            while total < 200_000 {
                let (result, back) = receiving.receive(buf, 0, 512).await;
                total += result.unwrap();
                buf = back;
            }
            total
        });
        runtime.block_on(async {
            let gather = Gather::new(&context, 1000).unwrap();
            for number in 0..200_u8 {
                gather.add(&[number; 1000]);
                socket.send(&gather).await.unwrap();
                gather.clear(drop);
                if number % 50 == 0 {
                    context.sleep(1_000_000).await;
                }
            }
            assert_eq!(received.await, Some(200_000));
        });
        echo.join().unwrap();
    }
}

#[test]
fn shutting_down_ends_what_is_under_way_and_a_lost_peer_is_an_error_of_a_send() {
    for runtime in runtimes(0) {
        let (socket, theirs) = pair(&runtime);
        let context = runtime.context().clone();
        runtime.block_on(async {
            let socket = Rc::new(socket);
            let (waiting, inner) = (Rc::clone(&socket), context.clone());
            let received = context.spawn(async move {
                let buf = inner.buffers().get(512).unwrap();
                waiting.receive(buf, 0, 512).await.0
            });
            context.sleep(2_000_000).await;
            socket.shut_down();
            assert_eq!(received.await.unwrap().unwrap(), 0);
            let gather = Gather::new(&context, 512).unwrap();
            gather.add(b"x");
            let error = socket.send(&gather).await.unwrap_err();
            assert_eq!(*error.reason(), Reason::Os { errno: libc::EPIPE });
        });
        drop(theirs);
    }
}

/// A send whose future is gone keeps its buffers until the kernel has let go of them.
#[test]
fn a_dropped_send_keeps_its_buffers_until_it_has_ended() {
    for runtime in runtimes(64) {
        let (socket, theirs) = pair(&runtime);
        let context = runtime.context().clone();
        runtime.block_on(async {
            let gather = Gather::new(&context, 512).unwrap();
            // More than the socket takes.
            for _ in 0..8 {
                gather.add_whole(context.buffers().zeroed(1 << 20).unwrap());
            }
            let mut sending = Box::pin(socket.send(&gather));
            std::future::poll_fn(|poll| {
                assert!(sending.as_mut().poll(poll).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            drop(sending);
            assert!(gather.is_sending.get(), "{}", context.io_path());
            drop(gather);
            assert_eq!(context.buffers().quarantine_intact(), (0, true), "the kernel may still read them");
            while context.operations_in_use() > 0 {
                context.sleep(1_000_000).await;
            }
            assert_eq!(context.buffers().quarantine_intact(), (9, true));
        });
        drop(theirs);
    }
}

#[test]
fn a_simulation_has_no_sockets() {
    let (runtime, _calendar) = Runtime::simulated(1).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = Socket::adopt(runtime.context(), ours.into()).unwrap_err();
    assert_eq!(*error.reason(), Reason::Os { errno: libc::EOPNOTSUPP });
}
