//! NBD: any server's export as a target, beside raw block devices.
//!
//! [`Address`] is what a user names it by, `handshake` how client and server agree, `connection` many requests in flight over
//! one socket, `reply` what comes back on it, [`Export`] the target that the load loops drive. All of it runs on the engine's runtime and its sockets:
//! no thread beside it, no copy of what is written.
//!
//! Invariant: whatever a server sends, the client ends with the data asked for or with an error that names the export; it never waits
//! for longer than its limit for a server that says nothing.

mod address;
mod connection;
mod export;
mod handshake;
mod reply;

use std::pin::pin;
use std::task::Poll;

use icecore::error::{Error, Kind, Reason};
use icecore::runtime::Context;

pub use address::Address;
pub use export::{ConnectOptions, Export};
pub use handshake::Agreed;

/// An error of the client's own, in a sentence.
fn told(operation: &'static str, kind: Kind, text: impl Into<String>) -> Error {
    Error::new(operation, Reason::Told { kind, name: "Nbd".to_owned(), text: text.into() })
}

/// Waits for something for so long at most.
async fn within<T>(context: &Context, limit_ns: u64, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut end) = (pin!(future), pin!(context.sleep(limit_ns)));
    std::future::poll_fn(|waker| match future.as_mut().poll(waker) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => end.as_mut().poll(waker).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests;
