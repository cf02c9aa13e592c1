//! What names an export: `nbd://host[:port]/export`, `nbd+unix:///export?socket=PATH`, as in
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md>; and connecting to it.
//!
//! Invariant: what is not understood is refused, never left out.

use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use icecore::error::{Error, Kind};
use icecore::format::nbd::{PORT, TEXT_BYTES_MAX};

use super::told;
use crate::failure::Failure;

/// Where an export is, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    place: Place,
    export: String,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Address {
    /// The address that a device's path is, if it is one.
    ///
    /// # Errors
    /// A usage failure that says what is wrong with it.
    pub fn of(path: &Path) -> Result<Option<Self>, Failure> {
        let Some(text) = path.to_str() else { return Ok(None) };
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        let parsed = match scheme {
            "nbd" => Self::tcp(rest),
            "nbd+unix" => Self::unix(rest),
            "nbds" | "nbds+unix" => {
                Err("this build does not speak TLS: use nbd:// or nbd+unix://".to_owned())
            }
            _ => return Ok(None),
        };
        let named = |why: String| Failure::usage(format!("{text}: {why}"));
        let (place, export) = parsed.map_err(named)?;
        if export.len() > TEXT_BYTES_MAX || export.contains('\0') {
            return Err(named("no export has such a name".to_owned()));
        }
        Ok(Some(Self { place, export, text: text.to_owned() }))
    }

    /// The name of the export; empty for the server's own choice.
    pub fn export(&self) -> &str {
        &self.export
    }

    fn tcp(rest: &str) -> Result<(Place, String), String> {
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        if export.contains(['?', '#']) || authority.contains(['?', '#']) {
            return Err("nbd:// takes no parameters; a socket's path comes with nbd+unix://".to_owned());
        }
        if authority.contains('@') {
            return Err("a user name means TLS, which this build does not speak".to_owned());
        }
        let behind_host = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[behind_host..].rfind(':') {
            Some(at) => {
                let (host, port) = authority.split_at(behind_host + at);
                let port = port[1..].parse().map_err(|_not| format!("{:?} is no port", &port[1..]))?;
                (host, port)
            }
            None => (authority, PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("it names no host: nbd://HOST[:PORT]/EXPORT".to_owned());
        }
        Ok((Place::Tcp(host.to_owned(), port), decoded(export)?))
    }

    fn unix(rest: &str) -> Result<(Place, String), String> {
        let form = "nbd+unix:///EXPORT?socket=PATH";
        let path = rest.strip_prefix('/').ok_or_else(|| format!("a local socket has no host: {form}"))?;
        let (export, query) = path.split_once('?').ok_or_else(|| format!("it names no socket: {form}"))?;
        let mut socket = None;
        for parameter in query.split('&') {
            match parameter.split_once('=') {
                Some(("socket", path)) if socket.is_none() => socket = Some(decoded(path)?),
                _ => return Err(format!("{parameter:?} is not understood: {form}")),
            }
        }
        match socket {
            Some(path) if path.starts_with('\0') => Err("abstract sockets are not supported".to_owned()),
            Some(path) if !path.is_empty() => Ok((Place::Unix(path.into()), decoded(export)?)),
            _ => Err(format!("it names no socket: {form}")),
        }
    }

    /// A new connection to the server.
    ///
    /// # Errors
    /// Nobody listens there, or nobody answers within the limit.
    pub(super) fn connect(&self, limit: Duration) -> Result<OwnedFd, Error> {
        let failed = |error: std::io::Error| {
            let text = format!("no server answers: {error}; is it running, and is this its address?");
            told("connect", Kind::Unavailable, text).on(self.text.as_str())
        };
        match &self.place {
            // A server on this machine that listens has room for a connection, or the kernel refuses it.
            Place::Unix(path) => UnixStream::connect(path).map(OwnedFd::from).map_err(failed),
            Place::Tcp(host, port) => {
                let mut last = std::io::Error::other("the name has no address");
                for address in (host.as_str(), *port).to_socket_addrs().map_err(failed)? {
                    match TcpStream::connect_timeout(&address, limit) {
                        Ok(stream) => {
                            // A request that waits for more would be measured as the network's time.
                            stream.set_nodelay(true).map_err(failed)?;
                            return Ok(stream.into());
                        }
                        Err(error) => last = error,
                    }
                }
                Err(failed(last))
            }
        }
    }
}

/// With `%XX` replaced.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match (digit(left.next()), digit(left.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(format!("{text:?} has a % that two hexadecimal digits do not follow")),
        }
    }
    String::from_utf8(bytes).map_err(|_not| format!("{text:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Option<(Place, String)>, String> {
        let address = Address::of(Path::new(text)).map_err(|failure| failure.message)?;
        Ok(address.map(|address| (address.place, address.export)))
    }

    #[test]
    fn addresses_are_understood() {
        let tcp = |host: &str, port, export: &str| Ok(Some((Place::Tcp(host.into(), port), export.into())));
        assert_eq!(parsed("nbd://example.com/disk"), tcp("example.com", 10_809, "disk"));
        assert_eq!(parsed("nbd://example.com"), tcp("example.com", 10_809, ""));
        assert_eq!(parsed("nbd://example.com:10/"), tcp("example.com", 10, ""));
        assert_eq!(parsed("nbd://example.com//disk"), tcp("example.com", 10_809, "/disk"));
        assert_eq!(parsed("nbd://[::1]:99/hello%20world"), tcp("::1", 99, "hello world"));
        assert_eq!(parsed("nbd://[::1]/x"), tcp("::1", 10_809, "x"));
        let unix = |path: &str, export: &str| Ok(Some((Place::Unix(path.into()), export.into())));
        assert_eq!(parsed("nbd+unix:///disk?socket=/run/a%2fb.sock"), unix("/run/a/b.sock", "disk"));
        assert_eq!(parsed("nbd+unix:///?socket=s"), unix("s", ""));
        for path in ["/dev/sdb", "disk.img", "nbd", "http://example.com/", "nbd:example.com"] {
            assert_eq!(parsed(path), Ok(None), "{path}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, why) in [
            ("nbds://example.com/", "TLS"),
            ("nbds+unix:///?socket=s", "TLS"),
            ("nbd://", "no host"),
            ("nbd:///x", "no host"),
            ("nbd://host:port/", "no port"),
            ("nbd://host:70000/", "no port"),
            ("nbd://me@host/", "TLS"),
            ("nbd://host/x?socket=y", "no parameters"),
            ("nbd+unix:///x", "no socket"),
            ("nbd+unix:///x?socket=", "no socket"),
            ("nbd+unix://host/x?socket=s", "no host"),
            ("nbd+unix:///x?socket=s&tls-type=psk", "not understood"),
            ("nbd+unix:///x?socket=%00abstract", "abstract"),
            ("nbd+unix:///%zz?socket=s", "hexadecimal"),
            ("nbd+unix:///%ff?socket=s", "UTF-8"),
            ("nbd+unix:///%?socket=s", "hexadecimal"),
            ("nbd+unix:///%00?socket=s", "no export"),
        ] {
            let told = parsed(text).expect_err(text);
            assert!(told.contains(why) && told.contains(text), "{told}");
        }
    }
}
