//! How client and server agree: the fixed newstyle handshake, structured replies where the server has them, and the export by its name.
//!
//! Every refusal is told by what it is about: the export, TLS, the server's policy. Nothing is read beyond the last answer, so that
//! replies begin with the next byte.

use icecore::buf::Buf;
use icecore::error::{Error, Kind, Result};
use icecore::format::nbd::{
    self, BlockSizes, FIXED_NEWSTYLE, Greeting, Information, NO_ZEROES, OPT_ABORT, OPT_GO, OPT_LIST,
    OPT_STRUCTURED_REPLY, OptionHeader, OptionReply, REP_ACK, REP_INFO, REP_REFUSED, REP_SERVER,
};
use icecore::runtime::{Context, Gather, Socket};
use std::rc::Rc;
use zerocopy::IntoBytes;

use super::told;

/// Answers to one option at most: a server that goes on for ever is none.
const ANSWERS_MAX: u32 = 4096;
/// Exports that an error lists at most.
const LISTED_MAX: usize = 20;

/// What client and server have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Size of the export.
    pub size_bytes: u64,
    /// What it takes: flags of the protocol.
    pub flags: u16,
    /// The sizes of its blocks.
    pub blocks: BlockSizes,
    /// Whether replies are structured.
    pub structured: bool,
}

impl Agreed {
    /// Whether the export has this flag.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Agrees with the server on the other end of a new socket on the export of this name.
pub(super) async fn agree(context: &Context, socket: &Socket, export: &str) -> Result<Agreed> {
    let mut talk = Talk {
        socket,
        buf: Some(context.buffers().get(nbd::OPTION_BYTES_MAX)?),
        gather: Gather::new(context, nbd::OPTION_BYTES_MAX)?,
    };
    let greeting: [u8; size_of::<Greeting>()] = talk.fixed().await?;
    let flags = Greeting::decode(greeting)?;
    // Without zeroes where the server can: they follow nothing that is asked here, but old servers look at the flag.
    let ours = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES));
    talk.say(&ours.to_be_bytes()).await?;
    let structured = talk.asks_for_structured().await?;
    match talk.go(export).await? {
        Ok((size_bytes, flags, blocks)) => Ok(Agreed { size_bytes, flags, blocks, structured }),
        Err(refusal) => Err(talk.refused(export, refusal).await),
    }
}

/// A refusal: its kind and what the server says about it.
type Refusal = (u32, String);

struct Talk<'a> {
    socket: &'a Socket,
    buf: Option<Buf>,
    gather: Rc<Gather>,
}

impl Talk<'_> {
    async fn say(&self, bytes: &[u8]) -> Result<()> {
        self.gather.add(bytes);
        let sent = self.socket.send(&self.gather).await;
        self.gather.clear(drop);
        sent
    }

    /// Exactly so many bytes.
    async fn hear(&mut self, length: usize) -> Result<&[u8]> {
        let Some(mut buf) = self.buf.take() else {
            return Err(told("agree on an export", Kind::Unavailable, "the connection has failed before"));
        };
        let mut at = 0;
        buf.set_len(length.max(1));
        while at < length {
            let (result, back) = self.socket.receive(buf, at, length - at).await;
            buf = back;
            match result? {
                0 => {
                    let text = "the server closed the connection in the middle of the handshake";
                    return Err(told("agree on an export", Kind::Unavailable, text));
                }
                received => at += received,
            }
        }
        Ok(&self.buf.insert(buf)[..length])
    }

    async fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.hear(N).await?);
        Ok(bytes)
    }

    async fn option(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let header = OptionHeader::new(option, data.len() as u32);
        self.say(&[header.as_bytes(), data].concat()).await
    }

    /// The next answer: its kind, and its data.
    async fn answer(&mut self, option: u32) -> Result<(u32, Vec<u8>)> {
        let header: [u8; size_of::<OptionReply>()] = self.fixed().await?;
        let (kind, length) = OptionReply::decode(header, option)?;
        Ok((kind, self.hear(length).await?.to_vec()))
    }

    async fn asks_for_structured(&mut self) -> Result<bool> {
        self.option(OPT_STRUCTURED_REPLY, &[]).await?;
        let (kind, data) = self.answer(OPT_STRUCTURED_REPLY).await?;
        match kind {
            REP_ACK if data.is_empty() => Ok(true),
            // Whatever the reason is, simple replies are left; where it is TLS, the next option is told so too.
            refused if refused & REP_REFUSED != 0 => Ok(false),
            _ => Err(nbd::bad("an answer is none that this option has")),
        }
    }

    async fn go(&mut self, export: &str) -> Result<std::result::Result<(u64, u16, BlockSizes), Refusal>> {
        let data = nbd::encode_go(export, &[nbd::INFO_EXPORT, nbd::INFO_BLOCK_SIZE])?;
        self.option(OPT_GO, &data).await?;
        let (mut size, mut blocks) = (None, BlockSizes::DEFAULT);
        for _ in 0..ANSWERS_MAX {
            match self.answer(OPT_GO).await? {
                (REP_INFO, data) => match Information::decode(&data)? {
                    Information::Export { size_bytes, flags } => size = Some((size_bytes, flags)),
                    Information::BlockSize(sizes) => blocks = sizes,
                    Information::Other(_) => {}
                },
                (REP_ACK, _) => {
                    let (size_bytes, flags) =
                        size.ok_or_else(|| nbd::bad("the server does not say how large the export is"))?;
                    return Ok(Ok((size_bytes, flags, blocks)));
                }
                (refused, data) if refused & REP_REFUSED != 0 => {
                    return Ok(Err((refused, String::from_utf8_lossy(&data).into_owned())));
                }
                _ => return Err(nbd::bad("an answer is none that this option has")),
            }
        }
        Err(nbd::bad("the server does not come to an end with its answers"))
    }

    /// The names of the exports, where the server tells them.
    async fn list(&mut self) -> Result<Vec<String>> {
        self.option(OPT_LIST, &[]).await?;
        let mut names = Vec::new();
        for _ in 0..ANSWERS_MAX {
            match self.answer(OPT_LIST).await? {
                (REP_SERVER, data) if names.len() < LISTED_MAX => {
                    names.push(nbd::decode_server(&data)?.0.to_owned());
                }
                (REP_SERVER, _) => {}
                _ => break,
            }
        }
        Ok(names)
    }

    /// What a refusal means, in a sentence; ends the talk.
    async fn refused(&mut self, export: &str, (kind, text): Refusal) -> Error {
        let (error, mut why) = match kind {
            nbd::REP_ERR_UNKNOWN => {
                let mut why = format!("the server has no export {export:?}");
                if let Ok(names) = self.list().await
                    && !names.is_empty()
                {
                    why.push_str(&format!("; it has {names:?}"));
                }
                (Kind::Unavailable, why)
            }
            nbd::REP_ERR_TLS_REQD => {
                let why =
                    "the server takes TLS only, which this build does not speak: let it listen without TLS";
                (Kind::Unsupported, why.to_owned())
            }
            nbd::REP_ERR_UNSUP => {
                let why = "the server does not know NBD_OPT_GO, of 2016: use a newer one";
                (Kind::Unsupported, why.to_owned())
            }
            nbd::REP_ERR_POLICY => (Kind::Denied, "the server's policy does not allow it".to_owned()),
            nbd::REP_ERR_SHUTDOWN => (Kind::Retry, "the server is ending".to_owned()),
            nbd::REP_ERR_BLOCK_SIZE_REQD => (
                Kind::Unsupported,
                "the server wants its block sizes kept to, and has not told them".to_owned(),
            ),
            other => (Kind::Unavailable, format!("the server refuses, with number {}", other & !REP_REFUSED)),
        };
        if !text.is_empty() {
            why.push_str(&format!(" (it says: {text})"));
        }
        // The server closes the connection either way.
        let _closed = self.option(OPT_ABORT, &[]).await;
        told("agree on an export", error, why)
    }
}
