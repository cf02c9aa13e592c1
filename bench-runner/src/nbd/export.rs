//! An export as a target: the load loops, the filling and the verification drive it as they drive a device.
//!
//! Requests go over the connections in turn. A flush goes over one: it is sent after what it covers has been answered, and a
//! server that is used over several has said that it then covers all of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use icecore::buf::Buf;
use icecore::device::{Geometry, Identity, signature};
use icecore::error::{Error, Kind, Reason, Result};
use icecore::format::nbd::{
    CAN_MULTI_CONN, CMD_DISC, CMD_FLAG_FUA, CMD_FLUSH, CMD_READ, CMD_WRITE, READ_ONLY, ROTATIONAL,
    SEND_FLUSH, SEND_FUA, SEND_TRIM,
};
use icecore::runtime::{Context, Socket};

use super::address::Address;
use super::connection::Connection;
use super::handshake::{self, Agreed};
use super::{told, within};
use crate::arms::target::Target;
use crate::content::TRANSFER_BYTES;

/// What offsets and lengths of all loads are multiples of.
const ALIGNMENT_BYTES: u32 = 4096;
/// The serial of an export that has no name.
const NAMELESS: &str = "nbd";

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions {
    /// Connections; more than one only where the server says that it may be.
    pub connections: u32,
    /// How long a server may say nothing while something is awaited.
    pub limit: Duration,
    /// Whether it is only to be read.
    pub read_only: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { connections: 1, limit: Duration::from_secs(30), read_only: false }
    }
}

/// An export of a server, connected; cheap to clone. The last one dropped ends the connections.
#[derive(Clone)]
pub struct Export(Rc<Inner>);

struct Inner {
    connections: Vec<Rc<Connection>>,
    next: Cell<usize>,
    agreed: Agreed,
    address: Address,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Export").field(&self.0.address).field(&self.0.agreed).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for connection in &self.connections {
            connection.socket.shut_down();
        }
    }
}

impl Export {
    /// Connects and agrees with the server.
    ///
    /// # Errors
    /// Nobody answers, the server refuses, or the export cannot be a target; the reason names which.
    pub async fn connect(context: &Context, address: &Address, options: ConnectOptions) -> Result<Self> {
        let mut connections: Vec<Rc<Connection>> = Vec::new();
        for number in 0..options.connections.max(1) {
            let connected = Self::one(context, address, &options);
            let limit_ns = options.limit.as_nanos() as u64;
            let connection = within(context, limit_ns, connected).await.unwrap_or_else(|| {
                let seconds = options.limit.as_secs_f64();
                let text = format!(
                    "the server has not come to an agreement on connection {} within {seconds} s",
                    number + 1
                );
                Err(told("agree on an export", Kind::Unavailable, text))
            });
            let connection = connection.map_err(|error| error.on(address.to_string()))?;
            if let Some(first) = connections.first() {
                if first.agreed != connection.agreed {
                    let text = "the server shows another export on a further connection";
                    return Err(told("agree on an export", Kind::Unavailable, text).on(address.to_string()));
                }
            } else {
                fits(&connection.agreed, &options).map_err(|error| error.on(address.to_string()))?;
            }
            connections.push(connection);
        }
        let agreed = connections[0].agreed;
        Ok(Self(Rc::new(Inner { connections, next: Cell::new(0), agreed, address: address.clone() })))
    }

    async fn one(context: &Context, address: &Address, options: &ConnectOptions) -> Result<Rc<Connection>> {
        let socket = Socket::adopt(context, address.connect(options.limit)?)?;
        let agreed = handshake::agree(context, &socket, address.export()).await?;
        Connection::begin(context, socket, agreed, &address.to_string(), options.limit.as_nanos() as u64)
    }

    /// What client and server have agreed on.
    pub fn agreed(&self) -> &Agreed {
        &self.0.agreed
    }

    /// Connections in use.
    pub fn connections(&self) -> usize {
        self.0.connections.len()
    }

    /// What confirms that its contents may be lost: its name, or `nbd` if it has none, and its size.
    pub fn identity(&self) -> Identity {
        let name = self.0.address.export();
        let serial = if name.is_empty() { NAMELESS } else { name }.to_owned();
        let (path, size_bytes) = (self.0.address.to_string().into(), self.0.agreed.size_bytes);
        Identity { path, serial, size_bytes, device_number: None }
    }

    /// Its sizes, as a device would say them.
    pub fn geometry(&self) -> Geometry {
        let agreed = &self.0.agreed;
        Geometry {
            size_bytes: agreed.size_bytes,
            logical_block_bytes: agreed.blocks.minimum_bytes.max(512),
            physical_block_bytes: agreed.blocks.preferred_bytes.max(512),
            optimal_io_bytes: 0,
            rotational: agreed.has(ROTATIONAL),
            discard: agreed.has(SEND_TRIM),
            write_cache: agreed.has(SEND_FLUSH),
        }
    }

    /// How it is reached, in words for results.
    pub fn io_path(&self) -> String {
        let agreed = &self.0.agreed;
        let replies = if agreed.structured { "structured replies" } else { "simple replies" };
        let durable = match (agreed.has(SEND_FUA), agreed.has(SEND_FLUSH)) {
            (true, true) => "FUA and flush",
            (true, false) => "FUA, no flush",
            (false, true) => "flush, no FUA",
            (false, false) => "neither flush nor FUA",
        };
        format!("NBD over {} connections, {replies}, {durable}", self.connections())
    }

    /// Somebody else's signature on it.
    ///
    /// # Errors
    /// What the server says.
    pub async fn foreign_signature(&self, context: &Context) -> Result<Option<signature::Signature>> {
        let size_bytes = self.0.agreed.size_bytes;
        let mut pieces = Vec::new();
        for piece in signature::pieces(size_bytes) {
            let mut bytes = Vec::new();
            let mut at = piece.start;
            while at < piece.end {
                let buf = context.buffers().get((piece.end - at).min(TRANSFER_BYTES as u64) as usize)?;
                let (result, buf) = self.read(at, buf).await;
                result?;
                at += buf.len() as u64;
                bytes.extend_from_slice(&buf);
            }
            pieces.push(bytes);
        }
        Ok(signature::probe_pieces(size_bytes, &pieces[0], &pieces[1]))
    }

    /// Says good-bye. Nothing may be in flight.
    ///
    /// # Errors
    /// A connection has failed before.
    pub async fn close(&self) -> Result<()> {
        let mut first_failure = Ok(());
        for connection in &self.0.connections {
            let (said, _no_buffer) = connection.perform((CMD_DISC, 0), 0, 0, None).await;
            connection.socket.shut_down();
            first_failure = first_failure.and(said);
        }
        first_failure
    }

    fn check(&self, operation: &'static str, offset: u64, length: u64) -> Result<u32> {
        let size_bytes = self.0.agreed.size_bytes;
        let error = |reason| Err(Error::new(operation, reason).on(self.0.address.to_string()));
        if offset.checked_add(length).is_none_or(|end| end > size_bytes) {
            return error(Reason::OutOfRange { offset, length, size_bytes });
        }
        let granularity = u64::from(self.0.agreed.blocks.minimum_bytes);
        if (offset | length) & (granularity - 1) != 0 {
            return error(Reason::Misaligned { offset, length, granularity });
        }
        match u32::try_from(length) {
            Ok(short) if short <= self.0.agreed.blocks.maximum_bytes => Ok(short),
            _ => error(Reason::TransferTooLong { length, limit: self.0.agreed.blocks.maximum_bytes.into() }),
        }
    }

    fn connection(&self) -> &Rc<Connection> {
        let next = self.0.next.get();
        self.0.next.set((next + 1) % self.0.connections.len());
        &self.0.connections[next]
    }

    async fn transfer(&self, what: (u16, u16), offset: u64, buf: Buf) -> (Result<()>, Buf) {
        let operation = if what.0 == CMD_READ { "read" } else { "write" };
        let length = match self.check(operation, offset, buf.len() as u64) {
            Ok(length) => length,
            Err(error) => return (Err(error), buf),
        };
        match self.connection().perform(what, offset, length, Some(buf)).await {
            (result, Some(buf)) => (result, buf),
            (_, None) => unreachable!("a transfer's buffer comes back with it"),
        }
    }
}

/// Whether every load finds what it needs.
fn fits(agreed: &Agreed, options: &ConnectOptions) -> Result<()> {
    let refusal = |kind, text: String| Err(told("agree on an export", kind, text));
    if agreed.has(READ_ONLY) && !options.read_only {
        return refusal(Kind::Denied, "the export is read-only".to_owned());
    }
    let blocks = agreed.blocks;
    if blocks.minimum_bytes > ALIGNMENT_BYTES {
        let text = format!(
            "it takes multiples of {} bytes only; loads are of {ALIGNMENT_BYTES}",
            blocks.minimum_bytes
        );
        return refusal(Kind::Unsupported, text);
    }
    if (blocks.maximum_bytes as usize) < TRANSFER_BYTES {
        let text = format!("it takes {} bytes at once; {TRANSFER_BYTES} are needed", blocks.maximum_bytes);
        return refusal(Kind::Unsupported, text);
    }
    if options.connections > 1 && !agreed.has(CAN_MULTI_CONN) {
        let text = "the server does not say that several connections see the same (CAN_MULTI_CONN): use one";
        return refusal(Kind::Unsupported, text.to_owned());
    }
    Ok(())
}

impl Target for Export {
    const FLUSHES_APART: bool = true;

    async fn read(&self, offset_bytes: u64, buf: Buf) -> (Result<()>, Buf) {
        self.transfer((CMD_READ, 0), offset_bytes, buf).await
    }

    async fn write(&self, offset_bytes: u64, buf: Buf, durable: bool) -> (Result<()>, Buf) {
        let fua = durable && self.0.agreed.has(SEND_FUA);
        let flags = if fua { CMD_FLAG_FUA } else { 0 };
        let (result, buf) = self.transfer((CMD_WRITE, flags), offset_bytes, buf).await;
        if result.is_err() || !durable || fua {
            return (result, buf);
        }
        (self.flush().await, buf)
    }

    /// Where the server takes no flushes, nothing is promised and nothing asked; loads that need one are refused before.
    async fn flush(&self) -> Result<()> {
        if !self.0.agreed.has(SEND_FLUSH) {
            return Ok(());
        }
        self.0.connections[0].perform((CMD_FLUSH, 0), 0, 0, None).await.0
    }
}
