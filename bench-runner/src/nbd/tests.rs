//! The client against servers that a test tells what to say: every reply in pieces of every length, in any order, wrong, late, or never.
//! Each ends with the right bytes or an error that says what is wrong, within its limit.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use icecore::buf::BufPoolOptions;
use icecore::error::Kind;
use icecore::format::nbd::*;
use icecore::runtime::{Runtime, RuntimeOptions, join_all};
use zerocopy::IntoBytes;

use self::server::{Offer, Server, chunk, handshake, memory, pieces_reply, read_reply, request};
use super::*;
use crate::arms::target::Target;

#[path = "../../tests/runner/nbd_server.rs"]
mod server;

/// Nothing may take longer.
const LIMIT_NS: u64 = 30_000_000_000;

fn runtime() -> Option<Runtime> {
    let buffers = BufPoolOptions { quarantine_buffers: 16, ..BufPoolOptions::default() };
    Runtime::new(RuntimeOptions { buffers, ..RuntimeOptions::default() })
        .inspect_err(|error| println!("skipped: {error}"))
        .ok()
}

fn folder() -> tempfile::TempDir {
    // Sockets have short names.
    tempfile::tempdir().unwrap()
}

fn options(limit_ms: u64) -> ConnectOptions {
    ConnectOptions { limit: Duration::from_millis(limit_ms), ..ConnectOptions::default() }
}

fn address(uri: &str) -> Address {
    Address::of(Path::new(uri)).unwrap().unwrap()
}

/// Runs work on a connected export, within the limit.
fn on<T>(runtime: &Runtime, uri: &str, options: ConnectOptions, work: impl AsyncFnOnce(Export) -> T) -> T {
    let context = runtime.context();
    let all = async {
        let export = Export::connect(context, &address(uri), options).await.unwrap();
        work(export).await
    };
    let done = runtime.block_on(within(context, LIMIT_NS, all));
    done.expect("no server keeps the client waiting for ever")
}

fn refusal(runtime: &Runtime, uri: &str, options: ConnectOptions) -> String {
    let context = runtime.context();
    let address = address(uri);
    let connecting = Export::connect(context, &address, options);
    let connected = runtime.block_on(within(context, LIMIT_NS, connecting)).expect("a refusal comes in time");
    let text = connected.unwrap_err().to_string();
    assert!(text.contains(uri), "the export is named: {text}");
    text
}

fn content(block: u64, generation: u8) -> Vec<u8> {
    (0..4096_u64).map(|at| (at.wrapping_mul(block + 1) >> 3) as u8 ^ generation).collect()
}

#[test]
fn what_is_written_is_read_with_many_requests_in_flight() {
    let Some(runtime) = runtime() else { return };
    for structured in [false, true] {
        let folder = folder();
        let offer = Offer { structured, ..Offer::default() };
        let server = Server::start(folder.path(), memory(&offer, |_, _| {}));
        on(&runtime, &server.uri(), options(5000), async |export| {
            let buffers = runtime.context().buffers().clone();
            for generation in 0..3 {
                let writes = (0..256_u64).map(|block| {
                    let (export, buf) =
                        (export.clone(), buffers.copy_of(&content(block, generation)).unwrap());
                    async move { export.write(block * 4096, buf, block % 7 == 0).await.0 }
                });
                assert!(join_all(writes).await.into_iter().all(|result| result.is_ok()));
                export.flush().await.unwrap();
                let reads = (0..256_u64).map(|block| {
                    let (export, buf) = (export.clone(), buffers.zeroed(4096).unwrap());
                    async move { export.read(block * 4096, buf).await }
                });
                for (block, (result, buf)) in (0..).zip(join_all(reads).await) {
                    result.unwrap();
                    assert!(buf[..] == content(block, generation), "block {block}");
                }
                // Longer than what comes in at once.
                let (result, buf) = export.read(0, buffers.zeroed(1 << 20).unwrap()).await;
                result.unwrap();
                let all: Vec<u8> = (0..256).flat_map(|block| content(block, generation)).collect();
                assert!(buf[..] == all, "all at once");
            }
            let beyond = export.read((1 << 20) - 512, buffers.get(4096).unwrap()).await.0.unwrap_err();
            assert_eq!(beyond.kind(), Kind::InvalidArgument, "{beyond}");
            export.close().await.unwrap();
        });
        assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn what_is_promised_is_asked_for() {
    let Some(runtime) = runtime() else { return };
    for (flags, expected) in [
        (HAS_FLAGS | SEND_FLUSH | SEND_FUA, &[(CMD_WRITE, 0), (CMD_WRITE, CMD_FLAG_FUA), (CMD_FLUSH, 0)][..]),
        (HAS_FLAGS | SEND_FLUSH, &[(CMD_WRITE, 0), (CMD_WRITE, 0), (CMD_FLUSH, 0), (CMD_FLUSH, 0)]),
        (HAS_FLAGS, &[(CMD_WRITE, 0), (CMD_WRITE, 0)]),
    ] {
        let folder = folder();
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (offer, list) = (Offer { flags, ..Offer::default() }, seen.clone());
        let server = Server::start(folder.path(), move |mut stream| {
            handshake(&mut stream, &offer);
            while let Some((request, _)) = request(&mut stream) {
                list.lock().unwrap().push((request.command.get(), request.flags.get()));
                stream.write_all(SimpleReply::new(0, request.handle.get()).as_bytes()).unwrap();
            }
        });
        on(&runtime, &server.uri(), options(5000), async |export| {
            for durable in [false, true] {
                let buf = runtime.context().buffers().zeroed(4096).unwrap();
                export.write(0, buf, durable).await.0.unwrap();
            }
            export.flush().await.unwrap();
        });
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}

/// The reply to a read: of its handle, offset and bytes.
type Form = fn(u64, u64, &[u8]) -> Vec<u8>;

/// Three reads, answered last first, the replies cut in two at every byte, and into single bytes.
#[test]
fn replies_in_any_order_and_cut_anywhere_are_understood() {
    let Some(runtime) = runtime() else { return };
    let bytes = |offset: u64| -> Vec<u8> {
        let mut bytes = content(offset, 1)[..2048].to_vec();
        bytes[..1024].fill(0);
        bytes
    };
    let forms: [(bool, Form); 3] = [
        (false, |handle, offset, bytes| read_reply(false, handle, offset, bytes)),
        (true, |handle, offset, bytes| read_reply(true, handle, offset, bytes)),
        (true, pieces_reply),
    ];
    for (structured, form) in forms {
        let folder = folder();
        let offer = Offer { structured, ..Offer::default() };
        let length = form(0, 0, &bytes(0)).len();
        // Around every header, and here and there in the data.
        let cuts: Vec<usize> = (0..3 * length)
            .filter(|at| at % length < 70 || at % 97 == 0 || at % length > length - 70)
            .collect();
        let turns = cuts.len() + 1;
        let server = Server::start(folder.path(), move |mut stream| {
            handshake(&mut stream, &offer);
            for cut in cuts.iter().copied().map(Some).chain([None]) {
                let Some(three) = (0..3).map(|_| request(&mut stream)).collect::<Option<Vec<_>>>() else {
                    return;
                };
                let reply: Vec<u8> = three
                    .iter()
                    .rev()
                    .flat_map(|(request, _)| {
                        let offset = request.offset_bytes.get();
                        form(request.handle.get(), offset, &bytes(offset))
                    })
                    .collect();
                match cut {
                    Some(cut) => {
                        stream.write_all(&reply[..cut]).unwrap();
                        std::thread::sleep(Duration::from_micros(200));
                        stream.write_all(&reply[cut..]).unwrap();
                    }
                    None => reply.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap()),
                }
            }
            // Until the client has gone.
            let _end = request(&mut stream);
        });
        on(&runtime, &server.uri(), options(5000), async |export| {
            let buffers = runtime.context().buffers().clone();
            for turn in 0..turns {
                let reads = [4096_u64, 8192, 0].map(|offset| {
                    let export = export.clone();
                    let mut buf = buffers.get(2048).unwrap();
                    buf.fill(0xEE);
                    async move { (offset, export.read(offset, buf).await) }
                });
                for (offset, (result, buf)) in join_all(reads).await {
                    result.unwrap();
                    assert!(buf[..] == bytes(offset), "turn {turn}, offset {offset}");
                }
            }
        });
    }
}

#[test]
fn refusals_say_what_is_refused() {
    let Some(runtime) = runtime() else { return };
    let offers = [
        (
            Offer { exports: vec!["other", "third"], ..Offer::default() },
            "no export \"disk\"; it has [\"other\", \"third\"]",
        ),
        (Offer { refusal: Some((REP_ERR_TLS_REQD, "")), ..Offer::default() }, "TLS only"),
        (
            Offer { refusal: Some((REP_ERR_POLICY, "not for you")), ..Offer::default() },
            "policy does not allow it (it says: not for you)",
        ),
        (Offer { refusal: Some((REP_ERR_UNSUP, "")), ..Offer::default() }, "NBD_OPT_GO"),
        (Offer { refusal: Some((REP_ERR_SHUTDOWN, "")), ..Offer::default() }, "is ending"),
        (Offer { refusal: Some((REP_ERR_BLOCK_SIZE_REQD, "")), ..Offer::default() }, "block sizes"),
        (Offer { refusal: Some((REP_REFUSED + 77, "")), ..Offer::default() }, "number 77"),
        (Offer { flags: HAS_FLAGS | READ_ONLY, ..Offer::default() }, "read-only"),
        (Offer { blocks: Some([8192, 8192, 1 << 25]), ..Offer::default() }, "multiples of 8192"),
        (Offer { blocks: Some([512, 4096, 65_536]), ..Offer::default() }, "65536 bytes at once"),
        (Offer { blocks: Some([3, 4096, 65_536]), ..Offer::default() }, "make no sense"),
    ];
    for (offer, why) in offers {
        let folder = folder();
        let server = Server::start(folder.path(), move |mut stream| {
            handshake(&mut stream, &offer);
            let _end = request(&mut stream);
        });
        let text = refusal(&runtime, &server.uri(), options(5000));
        assert!(text.contains(why), "{text}");
    }
    // Several connections, where the server does not say that it may be.
    let folder = folder();
    let server = Server::start(folder.path(), memory(&Offer::default(), |_, _| {}));
    let text = refusal(&runtime, &server.uri(), ConnectOptions { connections: 2, ..options(5000) });
    assert!(text.contains("CAN_MULTI_CONN"), "{text}");
    let text = refusal(&runtime, &server.uri().replace("nbd.sock", "nobody"), options(5000));
    assert!(text.contains("no server answers"), "{text}");
}

#[test]
fn what_is_no_server_is_told_so_in_time() {
    type Talk = fn(UnixStream);
    let Some(runtime) = runtime() else { return };
    let talks: [(Talk, &str); 6] = [
        (|stream| end_with(stream, b"SSH-2.0-OpenSSH_9.2p1 Debian"), "no NBD server"),
        (|stream| end_with(stream, b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0\0\0"), "oldstyle"),
        (|stream| end_with(stream, b"NBDMAGICIHAVEOPT\0\0"), "fixed newstyle"),
        (|stream| end_with(stream, b"NBDMAGIC"), "within 0.3 s"),
        (drop, "closed the connection in the middle of the handshake"),
        (
            |stream| {
                end_with(
                    stream,
                    b"NBDMAGICIHAVEOPT\0\x03\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0",
                )
            },
            "another option",
        ),
    ];
    for (talk, why) in talks {
        let folder = folder();
        let server = Server::start(folder.path(), talk);
        let text = refusal(&runtime, &server.uri(), options(300));
        assert!(text.contains(why), "{text}");
    }
}

fn end_with(mut stream: UnixStream, bytes: &[u8]) {
    let _closed_by_client = stream.write_all(bytes);
    // Silent, until the client has gone.
    while request_bytes(&mut stream) {}
}

fn request_bytes(stream: &mut UnixStream) -> bool {
    std::io::Read::read(stream, &mut [0; 64]).is_ok_and(|count| count > 0)
}

/// What a server does once it has the first request of three; then it is silent.
type Wrong = fn(&mut UnixStream, u64);

#[test]
fn a_wrong_reply_ends_every_request_with_its_reason() {
    let Some(runtime) = runtime() else { return };
    const OFFSET: [u8; 8] = 4096_u64.to_be_bytes();
    let wrongs: [(bool, Wrong, &str); 20] = [
        (true, |stream, _| stream.write_all(&[0x12; 32]).unwrap(), "wrong magic number"),
        (
            true,
            |stream, handle| stream.write_all(&chunk(1, CHUNK_NONE, handle ^ 1 << 40, &[])).unwrap(),
            "no request under way",
        ),
        (true, |stream, _| stream.write_all(&chunk(1, CHUNK_NONE, 77, &[])).unwrap(), "no request under way"),
        (
            false,
            |stream, _| stream.write_all(SimpleReply::new(0, 99).as_bytes()).unwrap(),
            "no request under way",
        ),
        (
            true,
            |stream, handle| stream.write_all(SimpleReply::new(0, handle).as_bytes()).unwrap(),
            "simple reply",
        ),
        (
            false,
            |stream, handle| stream.write_all(&chunk(1, CHUNK_NONE, handle, &[])).unwrap(),
            "none was agreed on",
        ),
        (
            true,
            |stream, handle| stream.write_all(&chunk(1, CHUNK_NONE, handle, &[])).unwrap(),
            "before all bytes",
        ),
        (
            true,
            |stream, handle| {
                stream.write_all(&chunk(1, CHUNK_OFFSET_DATA, handle, &[&OFFSET, &[1; 4095]])).unwrap()
            },
            "before all bytes",
        ),
        // Longer than asked, and before, behind and outside of it.
        (
            true,
            |stream, handle| {
                stream.write_all(&chunk(1, CHUNK_OFFSET_DATA, handle, &[&OFFSET, &[1; 4097]])).unwrap()
            },
            "other bytes",
        ),
        (
            true,
            |stream, handle| {
                stream
                    .write_all(&chunk(1, CHUNK_OFFSET_DATA, handle, &[&4095_u64.to_be_bytes(), &[1; 4096]]))
                    .unwrap()
            },
            "other bytes",
        ),
        (
            true,
            |stream, handle| {
                stream
                    .write_all(&chunk(1, CHUNK_OFFSET_DATA, handle, &[&u64::MAX.to_be_bytes(), &[1; 9]]))
                    .unwrap()
            },
            "other bytes",
        ),
        (
            true,
            |stream, handle| {
                stream
                    .write_all(&chunk(1, CHUNK_OFFSET_HOLE, handle, &[&OFFSET, &4097_u32.to_be_bytes()]))
                    .unwrap()
            },
            "other bytes",
        ),
        (
            true,
            |stream, handle| {
                stream
                    .write_all(&chunk(1, CHUNK_OFFSET_HOLE, handle, &[&OFFSET, &0_u32.to_be_bytes()]))
                    .unwrap()
            },
            "other bytes",
        ),
        (
            true,
            |stream, handle| {
                let one = chunk(0, CHUNK_OFFSET_DATA, handle, &[&OFFSET, &[1; 512]]);
                stream.write_all(&[&one[..], &one].concat()).unwrap();
            },
            "twice",
        ),
        (
            true,
            |stream, handle| stream.write_all(&chunk(1, CHUNK_OFFSET_DATA, handle, &[&OFFSET])).unwrap(),
            "chunk is none",
        ),
        (
            true,
            |stream, handle| {
                stream.write_all(Chunk::new(1, CHUNK_ERROR, handle, u32::MAX).as_bytes()).unwrap()
            },
            "longer than any text",
        ),
        (
            true,
            |stream, handle| {
                stream.write_all(&chunk(1, CHUNK_ERROR, handle, &[&[0, 0, 0, 5, 0, 9]])).unwrap()
            },
            "longer than what was sent",
        ),
        // In the middle of a header, of data, and without a word.
        (
            true,
            |stream, handle| {
                stream.write_all(&chunk(1, CHUNK_NONE, handle, &[])[..11]).unwrap();
                stream.shutdown(std::net::Shutdown::Both).unwrap();
            },
            "in the middle of a reply",
        ),
        (
            false,
            |stream, handle| {
                stream.write_all(&read_reply(false, handle, 0, &[1; 4096])[..3000]).unwrap();
                stream.shutdown(std::net::Shutdown::Both).unwrap();
            },
            "in the middle of a reply",
        ),
        (
            true,
            |stream, _| stream.shutdown(std::net::Shutdown::Both).unwrap(),
            "with 3 requests not answered",
        ),
    ];
    for (structured, wrong, why) in wrongs {
        let folder = folder();
        let offer = Offer { structured, ..Offer::default() };
        let server = Server::start(folder.path(), move |mut stream| {
            handshake(&mut stream, &offer);
            let first = request(&mut stream).map(|(request, _)| request.handle.get());
            let _others = (request(&mut stream), request(&mut stream));
            if let Some(handle) = first {
                wrong(&mut stream, handle);
            }
            while request_bytes(&mut stream) {}
        });
        on(&runtime, &server.uri(), options(5000), async |export| {
            let buffers = runtime.context().buffers().clone();
            let reads = [4096_u64, 8192, 0].map(|offset| {
                let (export, buf) = (export.clone(), buffers.zeroed(4096).unwrap());
                async move { export.read(offset, buf).await }
            });
            for (result, buf) in join_all(reads).await {
                let text = result.unwrap_err().to_string();
                assert!(text.contains(why) && text.contains("nbd+unix:///disk"), "{why}: {text}");
                assert_eq!(buf.len(), 4096, "buffers come back");
            }
            // And whatever is asked from then on.
            let (result, _buf) = export.write(0, buffers.zeroed(4096).unwrap(), false).await;
            assert!(result.unwrap_err().to_string().contains(why));
        });
    }
}

#[test]
fn a_server_that_says_nothing_any_more_is_given_up_in_time() {
    let Some(runtime) = runtime() else { return };
    for half_a_header in [false, true] {
        let folder = folder();
        let server = Server::start(folder.path(), move |mut stream| {
            handshake(&mut stream, &Offer::default());
            if half_a_header {
                stream.write_all(&CHUNK_MAGIC.to_be_bytes()).unwrap();
            }
            while request_bytes(&mut stream) {}
        });
        on(&runtime, &server.uri(), options(200), async |export| {
            let (result, _buf) = export.read(0, runtime.context().buffers().get(4096).unwrap()).await;
            let error = result.unwrap_err();
            assert!(error.to_string().contains("has not answered for 0.2 s"), "{error}");
        });
    }
    // One that takes nothing either: what is written fills the socket, and is given back.
    let folder = folder();
    let server = Server::start(folder.path(), |mut stream| {
        handshake(&mut stream, &Offer::default());
        std::thread::sleep(Duration::from_secs(3));
        drop(stream);
    });
    on(&runtime, &server.uri(), options(200), async |export| {
        let buffers = runtime.context().buffers().clone();
        let writes = (0..4_u64).map(|_| {
            let (export, buf) = (export.clone(), buffers.zeroed(1 << 20).unwrap());
            async move { export.write(0, buf, false).await }
        });
        for (result, buf) in join_all(writes).await {
            assert!(result.unwrap_err().to_string().contains("has not answered"));
            assert_eq!(buf.len(), 1 << 20);
        }
    });
}

#[test]
fn an_error_is_of_its_request_alone() {
    let Some(runtime) = runtime() else { return };
    for structured in [false, true] {
        let folder = folder();
        let offer = Offer { structured, ..Offer::default() };
        let server = Server::start(folder.path(), move |mut stream| {
            handshake(&mut stream, &offer);
            while let Some((request, _)) = request(&mut stream) {
                let (handle, offset) = (request.handle.get(), request.offset_bytes.get());
                let reply = match (request.command.get(), structured) {
                    (CMD_READ, _) if offset == 0 => read_reply(structured, handle, 0, &[7; 4096]),
                    (_, false) => SimpleReply::new(ENOSPC, handle).as_bytes().to_vec(),
                    // Data that came before the error count for nothing.
                    (CMD_READ, true) => [
                        chunk(0, CHUNK_OFFSET_DATA, handle, &[&offset.to_be_bytes(), &[9; 100]]),
                        chunk(
                            0,
                            CHUNK_ERROR_OFFSET,
                            handle,
                            &[&[0, 0, 0, 28, 0, 4], b"full", &offset.to_be_bytes()],
                        ),
                        chunk(CHUNK_DONE, CHUNK_NONE, handle, &[]),
                    ]
                    .concat(),
                    (_, true) => chunk(CHUNK_DONE, CHUNK_ERROR, handle, &[&[0, 0, 0, 28, 0, 4], b"full"]),
                };
                stream.write_all(&reply).unwrap();
            }
        });
        on(&runtime, &server.uri(), options(5000), async |export| {
            let buffers = runtime.context().buffers().clone();
            let read = async |offset: u64| export.read(offset, buffers.zeroed(4096).unwrap()).await;
            for _ in 0..3 {
                let (good, bad) = (read(0).await, read(8192).await);
                assert!(good.0.is_ok() && good.1.iter().all(|byte| *byte == 7));
                let write = export.write(8192, buffers.zeroed(4096).unwrap(), false).await;
                for error in [bad.0.unwrap_err(), write.0.unwrap_err()] {
                    let text = error.to_string();
                    assert!(text.contains("No space left") && text.contains("8192"), "{text}");
                    assert_eq!(text.contains("says: full"), structured, "{text}");
                }
            }
        });
    }
}

/// What nobody waits for any more neither ends the connection nor touches a buffer that is somebody else's.
#[test]
fn dropped_requests_leave_the_others_alone() {
    let Some(runtime) = runtime() else { return };
    let folder = folder();
    let server = Server::start(folder.path(), memory(&Offer::default(), |_, _| {}));
    on(&runtime, &server.uri(), options(5000), async |export| {
        let context = runtime.context();
        let buffers = context.buffers().clone();
        for turn in 0..200_u64 {
            let mut dropped: Vec<_> = (0..4)
                .map(|number| {
                    let (export, buf) = (export.clone(), buffers.copy_of(&content(turn, 1)).unwrap());
                    Box::pin(async move {
                        if number % 2 == 0 {
                            export.write(number * 4096, buf, false).await
                        } else {
                            export.read(number * 4096, buf).await
                        }
                    })
                })
                .collect();
            std::future::poll_fn(|waker| {
                for one in &mut dropped {
                    assert!(one.as_mut().poll(waker).is_pending());
                }
                Poll::Ready(())
            })
            .await;
            if turn % 3 == 0 {
                context.yield_now().await;
            }
            drop(dropped);
            let block = 16 + turn % 16;
            let buf = buffers.copy_of(&content(block, turn as u8)).unwrap();
            export.write(block * 4096, buf, false).await.0.unwrap();
            let (result, buf) = export.read(block * 4096, buffers.get(4096).unwrap()).await;
            result.unwrap();
            assert!(buf[..] == content(block, turn as u8), "turn {turn}");
            assert!(buffers.quarantine_intact().1, "a freed buffer was written to");
        }
        export.close().await.unwrap();
    });
}

#[test]
fn several_connections_share_the_work() {
    let Some(runtime) = runtime() else { return };
    let folder = folder();
    let flags = HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN;
    let server = Server::start(folder.path(), memory(&Offer { flags, ..Offer::default() }, |_, _| {}));
    on(&runtime, &server.uri(), ConnectOptions { connections: 3, ..options(5000) }, async |export| {
        let buffers = runtime.context().buffers().clone();
        let writes = (0..64_u64).map(|block| {
            let (export, buf) = (export.clone(), buffers.copy_of(&content(block, 3)).unwrap());
            async move { export.write(block * 4096, buf, false).await.0 }
        });
        assert!(join_all(writes).await.into_iter().all(|result| result.is_ok()));
        for block in 0..64 {
            let (result, buf) = export.read(block * 4096, buffers.get(4096).unwrap()).await;
            result.unwrap();
            assert!(buf[..] == content(block, 3), "block {block}");
        }
        export.close().await.unwrap();
    });
    assert_eq!(server.connections.load(Ordering::Relaxed), 3);
}
