//! The content of a file as a stream of bytes: plain, gzip or zstd, told by the first bytes, not by the name.
//!
//! Nothing is unpacked ahead of what is read, so that a file that unpacks to terabytes costs no memory. A zstd frame
//! says how much of the past it needs; more than [`ZSTD_WINDOW_BYTES_MAX`] is refused. Both decoders are written in
//! Rust, so that no C compiler is needed and a damaged file meets bounds checks.

use std::fs::File;
use std::io::{self, BufReader, Error, ErrorKind, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// The most of its own past that a zstd frame may ask to be kept: what `zstd --ultra -22` uses is four times as much,
/// what `-19` uses a quarter.
pub const ZSTD_WINDOW_BYTES_MAX: u64 = 32 << 20;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first byte of a zstd frame to be skipped varies in its lower half.
const ZSTD_SKIPPED_MAGIC: [u8; 3] = [0x2a, 0x4d, 0x18];
const READ_BYTES: usize = 64 * 1024;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, of one or several members.
    Gzip,
    /// zstd, of one or several frames.
    Zstd,
}

impl Packing {
    /// Its name in summaries.
    pub const fn name(self) -> &'static str {
        match self {
            Packing::Plain => "plain",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        }
    }
}

/// A stream of unpacked bytes.
pub(super) type Content = Box<dyn Read + Send>;

/// Opens a file, or anything that can be read from its beginning to its end; reads at most so many bytes ahead.
pub(super) fn open(path: &Path, ahead_bytes: usize) -> io::Result<(Content, Packing)> {
    let read_bytes = READ_BYTES.min(ahead_bytes);
    unpack(BufReader::with_capacity(read_bytes, File::open(path)?), read_bytes)
}

/// Finds out how `packed` is packed.
fn unpack(mut packed: impl Read + Send + 'static, read_bytes: usize) -> io::Result<(Content, Packing)> {
    let mut head = [0; 4];
    let filled = fill(&mut packed, &mut head)?;
    let head = head[..filled].to_vec();
    let zstd = is_zstd(&head);
    let gzip = head.starts_with(&GZIP_MAGIC);
    let packed = io::Cursor::new(head).chain(packed);
    Ok(if gzip {
        (Box::new(MultiGzDecoder::new(BufReader::with_capacity(read_bytes, packed))), Packing::Gzip)
    } else if zstd {
        (Box::new(ZstdFrames::new(packed)), Packing::Zstd)
    } else {
        (Box::new(packed), Packing::Plain)
    })
}

fn is_zstd(head: &[u8]) -> bool {
    head.len() == 4 && (head == ZSTD_MAGIC || (head[1..] == ZSTD_SKIPPED_MAGIC && head[0] & 0xf0 == 0x50))
}

/// Reads until the buffer is full or the stream has ended; gives how much was read.
pub(super) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// All frames of a zstd file, one after another, each checked against its sum if it has one.
struct ZstdFrames<R: Read> {
    state: Frame<R>,
}

enum Frame<R: Read> {
    Between(R),
    Inside(Box<StreamingDecoder<Headed<R>, FrameDecoder>>),
    Ended,
}

/// A reader in front of which a frame's magic has been put back.
type Headed<R> = io::Chain<io::Cursor<[u8; 4]>, R>;

impl<R: Read> ZstdFrames<R> {
    fn new(packed: R) -> Self {
        Self { state: Frame::Between(packed) }
    }

    /// The next frame that has content.
    fn begin(mut packed: R) -> io::Result<Frame<R>> {
        loop {
            let mut magic = [0; 4];
            let filled = fill(&mut packed, &mut magic)?;
            if filled == 0 {
                return Ok(Frame::Ended);
            }
            if !is_zstd(&magic[..filled]) {
                return Err(invalid("what follows a zstd frame is none"));
            }
            if magic != ZSTD_MAGIC {
                let mut length = [0; 4];
                packed.read_exact(&mut length)?;
                let length = u64::from(u32::from_le_bytes(length));
                if io::copy(&mut packed.by_ref().take(length), &mut io::sink())? < length {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                continue;
            }
            let headed = io::Cursor::new(magic).chain(packed);
            let decoder = StreamingDecoder::new_with_max_window_size(headed, ZSTD_WINDOW_BYTES_MAX)
                .map_err(|error| invalid(error.to_string()))?;
            return Ok(Frame::Inside(Box::new(decoder)));
        }
    }
}

impl<R: Read> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.state {
                Frame::Ended => return Ok(0),
                Frame::Inside(decoder) => {
                    let count = decoder.read(buffer)?;
                    if count > 0 {
                        return Ok(count);
                    }
                    let said = decoder.decoder.get_checksum_from_data();
                    if said.is_some() && said != decoder.decoder.get_calculated_checksum() {
                        self.state = Frame::Ended;
                        return Err(invalid("the sum of a zstd frame is not that of its content"));
                    }
                }
                Frame::Between(_) => {}
            }
            let packed = match std::mem::replace(&mut self.state, Frame::Ended) {
                Frame::Ended => return Ok(0),
                Frame::Inside(decoder) => decoder.into_inner().into_inner().1,
                Frame::Between(packed) => packed,
            };
            self.state = Self::begin(packed)?;
        }
    }
}

fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::InvalidData, reason)
}
