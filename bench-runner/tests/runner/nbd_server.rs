//! A small NBD server for tests: it keeps an export in memory, or says what a test tells it to.
//!
//! A thread for each connection, blocking; no part of it is the client's, but for the bytes of the protocol. Used by the client's own tests and by those
//! of the program.

#![allow(dead_code, reason = "each program of tests uses a part of it")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use icecore::format::nbd::{
    self, BlockSizeInfo, CHUNK_DONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE, CMD_DISC, CMD_READ, CMD_WRITE,
    Chunk, ExportInfo, Greeting, HAS_FLAGS, INFO_BLOCK_SIZE, INFO_EXPORT, OptionHeader, OptionReply, Request,
    SEND_FLUSH, SEND_FUA, SimpleReply,
};
use zerocopy::IntoBytes;

/// What a server offers.
#[derive(Clone, Debug)]
pub struct Offer {
    pub size_bytes: u64,
    pub flags: u16,
    pub structured: bool,
    pub blocks: Option<[u32; 3]>,
    pub exports: Vec<&'static str>,
    /// What every wish for an export is answered with.
    pub refusal: Option<(u32, &'static str)>,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            size_bytes: 1 << 20,
            flags: HAS_FLAGS | SEND_FLUSH | SEND_FUA,
            structured: true,
            blocks: None,
            exports: vec!["disk"],
            refusal: None,
        }
    }
}

/// A server that listens until it is dropped.
pub struct Server {
    socket: PathBuf,
    export: &'static str,
    /// Connections that have been taken.
    pub connections: Arc<AtomicUsize>,
}

impl Server {
    /// Listens in this folder; `talk` has every connection to itself.
    pub fn start(folder: &std::path::Path, talk: impl Fn(UnixStream) + Send + Sync + 'static) -> Self {
        let socket = folder.join("nbd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counter, talk) = (Arc::clone(&connections), Arc::new(talk));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counter.fetch_add(1, Ordering::Relaxed);
                let talk = Arc::clone(&talk);
                std::thread::spawn(move || talk(stream));
            }
        });
        Self { socket, export: "disk", connections }
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }
}

fn exactly<const N: usize>(stream: &mut UnixStream) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok().map(|()| bytes)
}

/// The handshake; true once replies begin.
pub fn handshake(stream: &mut UnixStream, offer: &Offer) -> bool {
    agreed(stream, offer).is_some()
}

fn agreed(stream: &mut UnixStream, offer: &Offer) -> Option<()> {
    stream.write_all(Greeting::new(nbd::FIXED_NEWSTYLE | nbd::NO_ZEROES).as_bytes()).ok()?;
    exactly::<4>(stream)?;
    loop {
        let (option, length) = OptionHeader::decode(exactly(stream)?).unwrap();
        let mut data = vec![0; length];
        stream.read_exact(&mut data).ok()?;
        let mut answer = |kind: u32, data: &[u8]| {
            let header = OptionReply::new(option, kind, data.len() as u32);
            stream.write_all(&[header.as_bytes(), data].concat()).ok()
        };
        match option {
            nbd::OPT_STRUCTURED_REPLY if offer.structured => answer(nbd::REP_ACK, &[])?,
            nbd::OPT_LIST => {
                for export in &offer.exports {
                    answer(nbd::REP_SERVER, &nbd::encode_server(export))?;
                }
                answer(nbd::REP_ACK, &[])?;
            }
            nbd::OPT_ABORT => {
                answer(nbd::REP_ACK, &[])?;
                return None;
            }
            nbd::OPT_GO => {
                let (name, _) = nbd::decode_go(&data).unwrap();
                if let Some((kind, text)) = offer.refusal {
                    answer(kind, text.as_bytes())?;
                } else if !offer.exports.contains(&name) {
                    answer(nbd::REP_ERR_UNKNOWN, b"no such export here")?;
                } else {
                    if let Some([minimum, preferred, maximum]) = offer.blocks {
                        let info = BlockSizeInfo {
                            information: INFO_BLOCK_SIZE.into(),
                            minimum_bytes: minimum.into(),
                            preferred_bytes: preferred.into(),
                            maximum_bytes: maximum.into(),
                        };
                        answer(nbd::REP_INFO, info.as_bytes())?;
                    }
                    let info = ExportInfo {
                        information: INFO_EXPORT.into(),
                        size_bytes: offer.size_bytes.into(),
                        flags: offer.flags.into(),
                    };
                    answer(nbd::REP_INFO, info.as_bytes())?;
                    answer(nbd::REP_ACK, &[])?;
                    return Some(());
                }
            }
            _ => answer(nbd::REP_ERR_UNSUP, b"")?,
        }
    }
}

/// The next request, with the data of a write; `None` at the end.
pub fn request(stream: &mut UnixStream) -> Option<(Request, Vec<u8>)> {
    let request = Request::decode(exactly(stream)?).unwrap();
    let mut data = Vec::new();
    if request.command.get() == CMD_WRITE {
        data.resize(request.length_bytes.get() as usize, 0);
        stream.read_exact(&mut data).ok()?;
    }
    (request.command.get() != CMD_DISC).then_some((request, data))
}

/// The bytes of a chunk.
pub fn chunk(flags: u16, kind: u16, handle: u64, payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    [Chunk::new(flags, kind, handle, payload.len() as u32).as_bytes(), &payload].concat()
}

/// The reply to a read, in one piece.
pub fn read_reply(structured: bool, handle: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    if structured {
        chunk(CHUNK_DONE, CHUNK_OFFSET_DATA, handle, &[&offset.to_be_bytes(), bytes])
    } else {
        [SimpleReply::new(0, handle).as_bytes(), bytes].concat()
    }
}

/// The reply to a read in pieces, last part first, zeroes as holes.
pub fn pieces_reply(handle: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut reply = Vec::new();
    for (number, piece) in bytes.chunks(1024).enumerate().rev() {
        let at = (offset + number as u64 * 1024).to_be_bytes();
        if piece.iter().all(|byte| *byte == 0) {
            let length = (piece.len() as u32).to_be_bytes();
            reply.extend(chunk(0, CHUNK_OFFSET_HOLE, handle, &[&at, &length]));
        } else {
            reply.extend(chunk(0, CHUNK_OFFSET_DATA, handle, &[&at, piece]));
        }
    }
    reply.extend(chunk(CHUNK_DONE, nbd::CHUNK_NONE, handle, &[]));
    reply
}

/// An export in memory, answered in the order of the requests. `meddle` may change what a read shows.
pub fn memory<M: Fn(u64, &mut [u8]) + Send + Sync + 'static>(
    offer: &Offer,
    meddle: M,
) -> impl Fn(UnixStream) + use<M> {
    let (offer, bytes) = (offer.clone(), Mutex::new(vec![0; offer.size_bytes as usize]));
    move |mut stream| {
        if !handshake(&mut stream, &offer) {
            return;
        }
        while let Some((request, data)) = request(&mut stream) {
            let (handle, offset) = (request.handle.get(), request.offset_bytes.get());
            let range = offset as usize..offset as usize + request.length_bytes.get() as usize;
            let reply = match request.command.get() {
                CMD_READ => {
                    let mut read = bytes.lock().unwrap()[range].to_vec();
                    meddle(offset, &mut read);
                    read_reply(offer.structured, handle, offset, &read)
                }
                CMD_WRITE => {
                    bytes.lock().unwrap()[range].copy_from_slice(&data);
                    SimpleReply::new(0, handle).as_bytes().to_vec()
                }
                _ => SimpleReply::new(0, handle).as_bytes().to_vec(),
            };
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
    }
}
