//! The NBD protocol on the wire: fixed newstyle handshake, options, requests, simple and structured replies.
//!
//! On the wire only, as <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md> says, for clients and servers alike;
//! nobody's behaviour is here. All integers are big-endian. Promise: whatever comes in, decoding neither panics nor
//! takes memory beyond what it was given; a length that it lets through is one that the reader said it is ready for.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Reason, Result};

/// What a server's greeting begins with: `NBDMAGIC`.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// What follows in a newstyle greeting, and what every option begins with: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What follows in an oldstyle greeting, which nobody speaks any more.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// What an answer to an option begins with.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// What a request begins with.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// What a simple reply begins with.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// What a chunk of a structured reply begins with.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The port of a server that nobody has given another one.
pub const PORT: u16 = 10_809;
/// Bytes of a name, and of a text for people, at most.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Bytes of an option's data, or of an answer's, at most: two texts and a few numbers.
pub const OPTION_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX + 256;
/// Bytes of one request at most, where the server has not said what it takes.
pub const REQUEST_BYTES_DEFAULT: u32 = 32 << 20;

/// In a greeting's flags: options may be refused without ending the connection.
pub const FIXED_NEWSTYLE: u16 = 1;
/// In a greeting's flags, and in the client's: no 124 zeroes behind an export's size.
pub const NO_ZEROES: u16 = 2;

/// Option: take this export, with no way to refuse it. Not used here.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end the connection.
pub const OPT_ABORT: u32 = 2;
/// Option: which exports are there?
pub const OPT_LIST: u32 = 3;
/// Option: go on encrypted.
pub const OPT_STARTTLS: u32 = 5;
/// Option: what is this export?
pub const OPT_INFO: u32 = 6;
/// Option: take this export.
pub const OPT_GO: u32 = 7;
/// Option: answer with structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;

/// Answer to an option: done.
pub const REP_ACK: u32 = 1;
/// Answer to an option: an export that there is.
pub const REP_SERVER: u32 = 2;
/// Answer to an option: something about an export.
pub const REP_INFO: u32 = 3;
/// In an answer's kind: it is a refusal.
pub const REP_REFUSED: u32 = 1 << 31;
/// Refusal: no such option here.
pub const REP_ERR_UNSUP: u32 = REP_REFUSED + 1;
/// Refusal: not allowed here.
pub const REP_ERR_POLICY: u32 = REP_REFUSED + 2;
/// Refusal: the option's data make no sense.
pub const REP_ERR_INVALID: u32 = REP_REFUSED + 3;
/// Refusal: not on this platform.
pub const REP_ERR_PLATFORM: u32 = REP_REFUSED + 4;
/// Refusal: only encrypted.
pub const REP_ERR_TLS_REQD: u32 = REP_REFUSED + 5;
/// Refusal: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_REFUSED + 6;
/// Refusal: the server is ending.
pub const REP_ERR_SHUTDOWN: u32 = REP_REFUSED + 7;
/// Refusal: the client must ask for, and keep to, the sizes of blocks.
pub const REP_ERR_BLOCK_SIZE_REQD: u32 = REP_REFUSED + 8;
/// Refusal: the option is too long.
pub const REP_ERR_TOO_BIG: u32 = REP_REFUSED + 9;

/// Information about an export: its size and flags.
pub const INFO_EXPORT: u16 = 0;
/// Information about an export: its name.
pub const INFO_NAME: u16 = 1;
/// Information about an export: a text for people.
pub const INFO_DESCRIPTION: u16 = 2;
/// Information about an export: the sizes of its blocks.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// In an export's flags: there are flags. Always set.
pub const HAS_FLAGS: u16 = 1;
/// In an export's flags: it cannot be written.
pub const READ_ONLY: u16 = 1 << 1;
/// In an export's flags: it takes [`CMD_FLUSH`].
pub const SEND_FLUSH: u16 = 1 << 2;
/// In an export's flags: it takes [`CMD_FLAG_FUA`].
pub const SEND_FUA: u16 = 1 << 3;
/// In an export's flags: it has to seek.
pub const ROTATIONAL: u16 = 1 << 4;
/// In an export's flags: it takes [`CMD_TRIM`].
pub const SEND_TRIM: u16 = 1 << 5;
/// In an export's flags: it takes [`CMD_WRITE_ZEROES`].
pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
/// In an export's flags: it takes [`CMD_FLAG_DF`].
pub const SEND_DF: u16 = 1 << 7;
/// In an export's flags: what one connection has flushed, all of them see.
pub const CAN_MULTI_CONN: u16 = 1 << 8;

/// Request: read.
pub const CMD_READ: u16 = 0;
/// Request: write the bytes that follow.
pub const CMD_WRITE: u16 = 1;
/// Request: the connection ends; there is no reply.
pub const CMD_DISC: u16 = 2;
/// Request: make durable what has been replied to.
pub const CMD_FLUSH: u16 = 3;
/// Request: the range is not needed any more.
pub const CMD_TRIM: u16 = 4;
/// Request: make the range read as zero.
pub const CMD_WRITE_ZEROES: u16 = 6;

/// With a request: durable before the reply.
pub const CMD_FLAG_FUA: u16 = 1;
/// With [`CMD_WRITE_ZEROES`]: keep the space.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// With [`CMD_READ`]: in one chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;

/// In a chunk's flags: the last one of its reply.
pub const CHUNK_DONE: u16 = 1;
/// Chunk: nothing, the reply ends.
pub const CHUNK_NONE: u16 = 0;
/// Chunk: bytes of a read.
pub const CHUNK_OFFSET_DATA: u16 = 1;
/// Chunk: zeroes of a read, not sent.
pub const CHUNK_OFFSET_HOLE: u16 = 2;
/// In a chunk's kind: the request has failed.
pub const CHUNK_FAILED: u16 = 1 << 15;
/// Chunk: the request has failed.
pub const CHUNK_ERROR: u16 = CHUNK_FAILED + 1;
/// Chunk: the request has failed at a place.
pub const CHUNK_ERROR_OFFSET: u16 = CHUNK_FAILED + 2;

/// Error: not permitted.
pub const EPERM: u32 = 1;
/// Error: input or output failed.
pub const EIO: u32 = 5;
/// Error: no memory.
pub const ENOMEM: u32 = 12;
/// Error: the request makes no sense.
pub const EINVAL: u32 = 22;
/// Error: no space.
pub const ENOSPC: u32 = 28;
/// Error: too long for one chunk.
pub const EOVERFLOW: u32 = 75;
/// Error: no such request here.
pub const ENOTSUP: u32 = 95;
/// Error: the server is ending.
pub const ESHUTDOWN: u32 = 108;

/// What a server says first, 18 bytes. The client answers with four bytes of flags: [`FIXED_NEWSTYLE`], [`NO_ZEROES`].
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `magic`: `NBDMAGIC` |
/// | 8 | 8 | `option_magic`: `IHAVEOPT` |
/// | 16 | 2 | `flags`: bit 0 options may be refused, bit 1 no zeroes |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Greeting {
    pub magic: U64,
    pub option_magic: U64,
    pub flags: U16,
}

/// What an option of a client begins with, 16 bytes; its data follow.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `magic`: `IHAVEOPT` |
/// | 8 | 4 | `option`: what is asked |
/// | 12 | 4 | `data_bytes`: what follows |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct OptionHeader {
    pub magic: U64,
    pub option: U32,
    pub data_bytes: U32,
}

/// What an answer to an option begins with, 20 bytes; its data follow.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `magic`: 0x0003e889045565a9 |
/// | 8 | 4 | `option`: what was asked |
/// | 12 | 4 | `kind`: bit 31 set in refusals |
/// | 16 | 4 | `data_bytes`: what follows |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct OptionReply {
    pub magic: U64,
    pub option: U32,
    pub kind: U32,
    pub data_bytes: U32,
}

/// What an export is, 12 bytes of an answer to an option.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 2 | `information`: 0 |
/// | 2 | 8 | `size_bytes`: of the export |
/// | 10 | 2 | `flags`: what it takes |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct ExportInfo {
    pub information: U16,
    pub size_bytes: U64,
    pub flags: U16,
}

/// The sizes of an export's blocks, 14 bytes of an answer to an option.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 2 | `information`: 3 |
/// | 2 | 4 | `minimum_bytes`: what offsets and lengths must be multiples of; a power of two up to 65,536 |
/// | 6 | 4 | `preferred_bytes`: a power of two, at least 512 |
/// | 10 | 4 | `maximum_bytes`: the longest request; 4294967295 if there is no limit |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct BlockSizeInfo {
    pub information: U16,
    pub minimum_bytes: U32,
    pub preferred_bytes: U32,
    pub maximum_bytes: U32,
}

/// A request, 28 bytes; the data of a write follow.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `magic`: 0x25609513 |
/// | 4 | 2 | `flags`: bit 0 durable before the reply |
/// | 6 | 2 | `command`: what is asked |
/// | 8 | 8 | `handle`: the reply has the same |
/// | 16 | 8 | `offset_bytes`: first byte of the range |
/// | 24 | 4 | `length_bytes`: of the range |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Request {
    pub magic: U32,
    pub flags: U16,
    pub command: U16,
    pub handle: U64,
    pub offset_bytes: U64,
    pub length_bytes: U32,
}

/// A simple reply, 16 bytes; the data of a read that succeeded follow.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `magic`: 0x67446698 |
/// | 4 | 4 | `error`: 0 if there is none |
/// | 8 | 8 | `handle`: of the request |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct SimpleReply {
    pub magic: U32,
    pub error: U32,
    pub handle: U64,
}

/// What a chunk of a structured reply begins with, 20 bytes; its payload follows.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `magic`: 0x668e33ef |
/// | 4 | 2 | `flags`: bit 0 the last of its reply |
/// | 6 | 2 | `kind`: bit 15 set in errors |
/// | 8 | 8 | `handle`: of the request |
/// | 16 | 4 | `payload_bytes`: what follows |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Chunk {
    pub magic: U32,
    pub flags: U16,
    pub kind: U16,
    pub handle: U64,
    pub payload_bytes: U32,
}

/// The payload of a hole, 12 bytes. That of data is `offset_bytes` alone, and then the data.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `offset_bytes`: first byte of it in the export |
/// | 8 | 4 | `length_bytes`: how many zeroes |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Hole {
    pub offset_bytes: U64,
    pub length_bytes: U32,
}

/// What the payload of an error begins with, 6 bytes; a text follows, and with kind 32770 an offset of 8 bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `error`: not 0 |
/// | 4 | 2 | `text_bytes`: of the text for people |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct ChunkError {
    pub error: U32,
    pub text_bytes: U16,
}

const _: () = {
    assert!(size_of::<Greeting>() == 18);
    assert!(size_of::<OptionHeader>() == 16);
    assert!(size_of::<OptionReply>() == 20);
    assert!(size_of::<ExportInfo>() == 12);
    assert!(size_of::<BlockSizeInfo>() == 14);
    assert!(size_of::<Request>() == 28);
    assert!(size_of::<SimpleReply>() == 16);
    assert!(size_of::<Chunk>() == 20);
    assert!(size_of::<Hole>() == 12);
    assert!(size_of::<ChunkError>() == 6);
};

/// The refusal of bytes that the protocol does not know.
pub fn bad(why: &'static str) -> Error {
    Error::new("read NBD", Reason::BadMessage { why })
}

fn too_long(length: u32, limit: u64) -> Error {
    Error::new("read NBD", Reason::TransferTooLong { length: u64::from(length), limit })
}

impl Greeting {
    /// A server's, with these flags.
    pub fn new(flags: u16) -> Self {
        Self { magic: MAGIC.into(), option_magic: OPTION_MAGIC.into(), flags: flags.into() }
    }

    /// The flags of a greeting that a fixed newstyle server has sent.
    ///
    /// # Errors
    /// `BadMessage`, as for all of them.
    pub fn decode(bytes: [u8; size_of::<Self>()]) -> Result<u16> {
        let greeting: Self = zerocopy::transmute!(bytes);
        if greeting.magic.get() != MAGIC {
            return Err(bad("it does not begin with NBDMAGIC: this is no NBD server"));
        }
        match greeting.option_magic.get() {
            OPTION_MAGIC => {}
            OLDSTYLE_MAGIC => return Err(bad("the server speaks the oldstyle handshake, given up in 2015")),
            _ => return Err(bad("neither IHAVEOPT nor the oldstyle handshake follows NBDMAGIC")),
        }
        let flags = greeting.flags.get();
        if flags & FIXED_NEWSTYLE == 0 {
            return Err(bad("the server does not speak the fixed newstyle handshake"));
        }
        Ok(flags)
    }
}

impl OptionHeader {
    /// An option with so many bytes of data.
    pub fn new(option: u32, data_bytes: u32) -> Self {
        Self { magic: OPTION_MAGIC.into(), option: option.into(), data_bytes: data_bytes.into() }
    }

    /// The option, and how many bytes of data follow, [`OPTION_BYTES_MAX`] at most.
    ///
    /// # Errors
    /// `BadMessage`, `TransferTooLong`.
    pub fn decode(bytes: [u8; size_of::<Self>()]) -> Result<(u32, usize)> {
        let header: Self = zerocopy::transmute!(bytes);
        if header.magic.get() != OPTION_MAGIC {
            return Err(bad("an option does not begin with IHAVEOPT"));
        }
        Ok((header.option.get(), option_bytes(header.data_bytes.get())?))
    }
}

fn option_bytes(bytes: u32) -> Result<usize> {
    if bytes as usize > OPTION_BYTES_MAX {
        return Err(too_long(bytes, OPTION_BYTES_MAX as u64));
    }
    Ok(bytes as usize)
}

impl OptionReply {
    /// An answer with so many bytes of data.
    pub fn new(option: u32, kind: u32, data_bytes: u32) -> Self {
        let magic = OPTION_REPLY_MAGIC.into();
        Self { magic, option: option.into(), kind: kind.into(), data_bytes: data_bytes.into() }
    }

    /// The kind of the answer to this option, and how many bytes of data follow, [`OPTION_BYTES_MAX`] at most.
    ///
    /// # Errors
    /// `BadMessage`, `TransferTooLong`.
    pub fn decode(bytes: [u8; size_of::<Self>()], option: u32) -> Result<(u32, usize)> {
        let reply: Self = zerocopy::transmute!(bytes);
        if reply.magic.get() != OPTION_REPLY_MAGIC {
            return Err(bad("an answer to an option has a wrong magic number"));
        }
        if reply.option.get() != option {
            return Err(bad("an answer is to another option than the one that was sent"));
        }
        Ok((reply.kind.get(), option_bytes(reply.data_bytes.get())?))
    }
}

/// What an answer says about an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Information {
    /// Its size and flags.
    Export {
        /// Its size.
        size_bytes: u64,
        /// What it takes.
        flags: u16,
    },
    /// The sizes of its blocks.
    BlockSize(BlockSizes),
    /// Something that this build does not know, or need.
    Other(u16),
}

/// The sizes of an export's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// What offsets and lengths must be multiples of.
    pub minimum_bytes: u32,
    /// What is best.
    pub preferred_bytes: u32,
    /// The longest request.
    pub maximum_bytes: u32,
}

impl BlockSizes {
    /// What holds where a server says nothing.
    pub const DEFAULT: Self =
        Self { minimum_bytes: 1, preferred_bytes: 4096, maximum_bytes: REQUEST_BYTES_DEFAULT };
}

impl Information {
    /// What these data of an answer of kind [`REP_INFO`] say.
    ///
    /// # Errors
    /// `BadMessage`.
    pub fn decode(data: &[u8]) -> Result<Self> {
        let (kind, _) = U16::read_from_prefix(data).map_err(|_short| bad("information without a kind"))?;
        match kind.get() {
            INFO_EXPORT => {
                let info = ExportInfo::read_from_bytes(data);
                let info =
                    info.map_err(|_length| bad("the information about an export has a wrong length"))?;
                Ok(Self::Export { size_bytes: info.size_bytes.get(), flags: info.flags.get() })
            }
            INFO_BLOCK_SIZE => {
                let info = BlockSizeInfo::read_from_bytes(data);
                let info = info.map_err(|_length| bad("the information about blocks has a wrong length"))?;
                let sizes = BlockSizes {
                    minimum_bytes: info.minimum_bytes.get(),
                    preferred_bytes: info.preferred_bytes.get(),
                    maximum_bytes: info.maximum_bytes.get(),
                };
                let is_sound = sizes.minimum_bytes.is_power_of_two()
                    && sizes.minimum_bytes <= 65_536
                    && sizes.preferred_bytes.is_power_of_two()
                    && sizes.preferred_bytes >= sizes.minimum_bytes
                    && sizes.maximum_bytes >= sizes.minimum_bytes;
                if is_sound {
                    Ok(Self::BlockSize(sizes))
                } else {
                    Err(bad("the sizes of blocks make no sense"))
                }
            }
            other => Ok(Self::Other(other)),
        }
    }
}

/// The data of [`OPT_INFO`] and [`OPT_GO`]: an export's name, and what is asked about it.
///
/// # Errors
/// `TransferTooLong` for a name that nobody takes.
pub fn encode_go(name: &str, information: &[u16]) -> Result<Vec<u8>> {
    if name.len() > TEXT_BYTES_MAX {
        return Err(too_long(u32::try_from(name.len()).unwrap_or(u32::MAX), TEXT_BYTES_MAX as u64));
    }
    let mut data = U32::new(name.len() as u32).as_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(U16::new(information.len() as u16).as_bytes());
    for one in information {
        data.extend_from_slice(U16::new(*one).as_bytes());
    }
    Ok(data)
}

/// The name, and what is asked, of the data of [`OPT_INFO`] and [`OPT_GO`].
///
/// # Errors
/// `BadMessage`.
pub fn decode_go(data: &[u8]) -> Result<(&str, Vec<u16>)> {
    let (name, rest) = sized_text(data)?;
    let (count, rest) = U16::read_from_prefix(rest).map_err(|_short| bad("an option ends in its middle"))?;
    if rest.len() != 2 * usize::from(count.get()) {
        return Err(bad("an option has other data than it says"));
    }
    Ok((name, rest.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect()))
}

/// The data of an answer of kind [`REP_SERVER`].
pub fn encode_server(name: &str) -> Vec<u8> {
    let mut data = U32::new(name.len() as u32).as_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data
}

/// The name of an export, and what is told about it, of the data of an answer of kind [`REP_SERVER`].
///
/// # Errors
/// `BadMessage`.
pub fn decode_server(data: &[u8]) -> Result<(&str, &str)> {
    let (name, rest) = sized_text(data)?;
    Ok((name, text(rest)?))
}

fn sized_text(data: &[u8]) -> Result<(&str, &[u8])> {
    let (length, rest) = U32::read_from_prefix(data).map_err(|_short| bad("a name without a length"))?;
    let length = length.get() as usize;
    if length > rest.len() || length > TEXT_BYTES_MAX {
        return Err(bad("a name is longer than what was sent"));
    }
    let (name, rest) = rest.split_at(length);
    Ok((text(name)?, rest))
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_not_text| bad("a text is not UTF-8"))
}

impl Request {
    /// A request; its data, if any, follow it.
    pub fn new(command: u16, flags: u16, handle: u64, offset_bytes: u64, length_bytes: u32) -> Self {
        Self {
            magic: REQUEST_MAGIC.into(),
            flags: flags.into(),
            command: command.into(),
            handle: handle.into(),
            offset_bytes: offset_bytes.into(),
            length_bytes: length_bytes.into(),
        }
    }

    /// The request that these bytes are. What it asks for is for the server to judge.
    ///
    /// # Errors
    /// `BadMessage`: what follows cannot be told apart any more.
    pub fn decode(bytes: [u8; size_of::<Self>()]) -> Result<Self> {
        let request: Self = zerocopy::transmute!(bytes);
        if request.magic.get() != REQUEST_MAGIC {
            return Err(bad("a request has a wrong magic number"));
        }
        Ok(request)
    }
}

impl SimpleReply {
    /// A reply; the data of a read that succeeded follow it.
    pub fn new(error: u32, handle: u64) -> Self {
        Self { magic: SIMPLE_REPLY_MAGIC.into(), error: error.into(), handle: handle.into() }
    }
}

impl Chunk {
    /// A chunk with so many bytes of payload.
    pub fn new(flags: u16, kind: u16, handle: u64, payload_bytes: u32) -> Self {
        Self {
            magic: CHUNK_MAGIC.into(),
            flags: flags.into(),
            kind: kind.into(),
            handle: handle.into(),
            payload_bytes: payload_bytes.into(),
        }
    }

    /// Whether it is the last one of its reply.
    pub fn is_last(&self) -> bool {
        self.flags.get() & CHUNK_DONE != 0
    }

    /// Whether it says that the request has failed.
    pub fn is_failure(&self) -> bool {
        self.kind.get() & CHUNK_FAILED != 0
    }
}

/// What the beginning of a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A whole reply, but for the data of a read.
    Simple(SimpleReply),
    /// A chunk, but for its payload.
    Chunk(Chunk),
}

impl Reply {
    /// Bytes of the header of the reply that begins with these four.
    ///
    /// # Errors
    /// `BadMessage`.
    pub fn header_bytes(magic: [u8; 4]) -> Result<usize> {
        match u32::from_be_bytes(magic) {
            SIMPLE_REPLY_MAGIC => Ok(size_of::<SimpleReply>()),
            CHUNK_MAGIC => Ok(size_of::<Chunk>()),
            _ => Err(bad("a reply has a wrong magic number")),
        }
    }

    /// The header that these bytes are, as many as [`Reply::header_bytes`] says.
    ///
    /// # Errors
    /// `BadMessage`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wrong = || bad("a reply has a wrong magic number");
        let (magic, _) = U32::read_from_prefix(bytes).map_err(|_short| wrong())?;
        match magic.get() {
            SIMPLE_REPLY_MAGIC => {
                SimpleReply::read_from_bytes(bytes).map(Self::Simple).map_err(|_size| wrong())
            }
            CHUNK_MAGIC => Chunk::read_from_bytes(bytes).map(Self::Chunk).map_err(|_size| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// The payload of a chunk that says that the request has failed: the error, the text for people, and the place if there is one.
///
/// # Errors
/// `BadMessage`.
pub fn decode_failure(kind: u16, payload: &[u8]) -> Result<(u32, &str, Option<u64>)> {
    let (head, rest) =
        ChunkError::read_from_prefix(payload).map_err(|_short| bad("an error ends in its middle"))?;
    let text_bytes = usize::from(head.text_bytes.get());
    if text_bytes > rest.len() || text_bytes > TEXT_BYTES_MAX {
        return Err(bad("the text of an error is longer than what was sent"));
    }
    if head.error.get() == 0 {
        return Err(bad("an error has the number 0"));
    }
    let (told, rest) = rest.split_at(text_bytes);
    let place = match kind {
        CHUNK_ERROR_OFFSET => {
            let place = U64::read_from_bytes(rest).map_err(|_size| bad("an error at a place has none"))?;
            Some(place.get())
        }
        _ => None,
    };
    Ok((head.error.get(), text(told)?, place))
}

#[cfg(test)]
mod tests;
