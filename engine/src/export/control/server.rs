//! The end of a control socket that answers: one thread of the embedding program, all clients at once.
//!
//! The thread waits for bytes, for room and for the volume's answers, and for nothing else: what is asked is done on the
//! volume's runtime, each request beside the others. So nobody waits for a client. Each client has one request under way
//! at most, so that memory is bounded by their number.

#![allow(
    clippy::disallowed_methods,
    reason = "this thread belongs to the embedding program, not to a runtime"
)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::message::{Answer, Request};
use super::{failed, peer, perform, socket_path, unfit};
use crate::error::{Error, Reason, Result};
use crate::format::control::{ControlHeader, HEADER_BYTES, REQUEST_BYTES_MAX};
use crate::volume::VolumeHandle;

/// Clients served at the same time; further ones wait until one of them ends or is dropped.
pub const CLIENTS_MAX: usize = 16;
/// How long a client may take for a whole request.
pub const SILENCE: Duration = Duration::from_secs(5);
/// How long a client may take to read its answer.
const TAKING_MAX: Duration = Duration::from_secs(10);
/// How long nobody is let in after the system had no descriptor for one.
const PAUSE: Duration = Duration::from_millis(100);

/// A control socket that is bound; removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket, so that nobody else's is removed.
    node: (u64, u64),
    ear: UnixStream,
    bell: Arc<Bell>,
}

/// Wakes the serving thread.
#[derive(Debug)]
struct Bell {
    stream: UnixStream,
    stopped: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        // A bell that cannot take one more byte is ringing already.
        let _ringing = (&self.stream).write(&[1]);
    }
}

/// Ends a [`ControlSocket::serve`].
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Bell>);

impl Stopper {
    /// What is under way is still done and answered, for which the volume's runtime must be running.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.ring();
    }
}

impl ControlSocket {
    /// Binds the socket of the volume of this pool on the device at `device`, which the caller has open. A socket that
    /// a process has left behind is replaced.
    ///
    /// # Errors
    /// `AlreadyOpen` where somebody listens there, `InvalidSetting` for a directory that others may look into or whose
    /// name is too long, and what the system says.
    pub fn bind(directory: &Path, device: &Path, pool_id: &[u8; 16]) -> Result<Self> {
        prepare(directory)?;
        let path = socket_path(directory, device, pool_id)?;
        let system = |error: &std::io::Error| failed(error).on(path.display().to_string());
        match UnixStream::connect(&path) {
            Ok(_) => {
                let taken = Error::new("use control socket", Reason::AlreadyOpen);
                return Err(taken.on(path.display().to_string()));
            }
            Err(error) => match error.kind() {
                ErrorKind::NotFound => {}
                ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(&path).map_err(|error| system(&error))?
                }
                ErrorKind::InvalidInput => {
                    return Err(unfit(
                        directory,
                        "it is too long for the name of a socket: 50 bytes will do",
                    ));
                }
                _ => return Err(system(&error)),
            },
        }
        let ready = || {
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            let metadata = std::fs::symlink_metadata(&path)?;
            let (bell, ear) = UnixStream::pair()?;
            bell.set_nonblocking(true)?;
            ear.set_nonblocking(true)?;
            let bell = Arc::new(Bell { stream: bell, stopped: AtomicBool::new(false) });
            let node = (metadata.dev(), metadata.ino());
            Ok(Self { listener, path: path.clone(), node, ear, bell })
        };
        ready().map_err(|error: std::io::Error| system(&error))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends [`ControlSocket::serve`] from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.bell))
    }

    /// Serves all who come, until a [`Stopper`] ends it. Blocks; the volume's runtime must be running elsewhere.
    ///
    /// # Errors
    /// What the system says of waiting.
    pub fn serve(&self, handle: &VolumeHandle) -> Result<()> {
        let (sender, answers) = channel::<(u64, Result<Answer>)>();
        let mut clients: BTreeMap<u64, Client> = BTreeMap::new();
        let mut next = 0;
        let mut closed_until = None;
        loop {
            let now = Instant::now();
            let stopped = self.bell.stopped.load(Ordering::SeqCst);
            clients.retain(|_, client| {
                let stays = client.stays(now, stopped);
                if !stays && let Some(group) = client.holds.take() {
                    // Where the volume is gone, so is the hold.
                    let _volume_gone = handle.start(async move |volume| volume.let_go(&group));
                }
                stays
            });
            if stopped && clients.is_empty() {
                return Ok(());
            }
            closed_until = closed_until.filter(|until| *until > now);
            let lets_in = !stopped && closed_until.is_none() && clients.len() < CLIENTS_MAX;
            let until = clients.values().filter_map(Client::until).chain(closed_until).min();
            let ready = self.wait(&clients, lets_in, until.map(|until| until.duration_since(now)))?;
            self.hear();
            while let Ok((number, answer)) = answers.try_recv() {
                if let Some(client) = clients.get_mut(&number) {
                    client.answer(&answer);
                }
            }
            for number in ready.clients {
                let Some(client) = clients.get_mut(&number) else { continue };
                if let Some(request) = client.turn() {
                    if let Request::Hold { group, .. } = &request {
                        client.holds = Some(group.id);
                    }
                    let (sender, bell) = (sender.clone(), Arc::clone(&self.bell));
                    let mut promise = Promise { sender, bell, number: Some(number) };
                    // Where the volume is gone, the promise answers as it is dropped.
                    let _volume_gone = handle.start(async move |volume| {
                        promise.keep(perform(&volume, &request).await);
                    });
                }
            }
            if ready.listener {
                match self.let_in() {
                    Ok(client) => {
                        clients.insert(next, client);
                        next += 1;
                    }
                    Err(Refusal::OfThisOne) => {}
                    Err(Refusal::OfAll) => closed_until = Some(Instant::now() + PAUSE),
                }
            }
        }
    }

    /// Waits until something can be done.
    fn wait(
        &self,
        clients: &BTreeMap<u64, Client>,
        lets_in: bool,
        timeout: Option<Duration>,
    ) -> Result<Ready> {
        // A client whose request is being done is not looked at: it has nothing to say.
        let busy: Vec<(u64, &Client, PollFlags)> = clients
            .iter()
            .filter_map(|(number, client)| Some((*number, client, client.waits_for()?)))
            .collect();
        let mut fds = vec![PollFd::new(&self.ear, PollFlags::IN)];
        fds.extend(busy.iter().map(|(_, client, flags)| PollFd::new(&client.stream, *flags)));
        if lets_in {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        // A moment more, so that what it waits for is over when it ends.
        let timeout = timeout.map(|timeout| timeout + Duration::from_millis(1));
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(&errno.into())),
        }
        let is_ready = |fd: &PollFd| !fd.revents().is_empty();
        let ready = busy.iter().zip(&fds[1..]).filter(|(_, fd)| is_ready(fd)).map(|(client, _)| client.0);
        Ok(Ready { clients: ready.collect(), listener: lets_in && fds.last().is_some_and(is_ready) })
    }

    /// Takes the bell's bytes away.
    fn hear(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.ear).read(&mut bytes), Ok(1..)) {}
    }

    fn let_in(&self) -> std::result::Result<Client, Refusal> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) =>
            {
                return Err(Refusal::OfAll);
            }
            Err(_gone) => return Err(Refusal::OfThisOne),
        };
        stream.set_nonblocking(true).map_err(|_gone| Refusal::OfThisOne)?;
        let mut client = Client::new(stream);
        if let Err(stranger) = peer(&client.stream.as_fd(), false) {
            client.refuse(stranger);
        }
        Ok(client)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.node) {
            // One that stays is replaced by whoever comes next.
            let _stays = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes the directory, or sees that nobody else may enter it.
fn prepare(directory: &Path) -> Result<()> {
    let system = |error: std::io::Error| failed(&error).on(directory.display().to_string());
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(system(error)),
    }
    let metadata = std::fs::metadata(directory).map_err(system)?;
    let own = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    if own && metadata.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(unfit(directory, "it must be a directory of this user that nobody else may enter: chmod 700"))
    }
}

struct Ready {
    clients: Vec<u64>,
    listener: bool,
}

enum Refusal {
    OfThisOne,
    OfAll,
}

/// The answer that a client is owed; whatever becomes of the request, there is exactly one.
struct Promise {
    sender: Sender<(u64, Result<Answer>)>,
    bell: Arc<Bell>,
    /// Until it is kept.
    number: Option<u64>,
}

impl Promise {
    fn keep(&mut self, answer: Result<Answer>) {
        if let Some(number) = self.number.take() {
            // Nobody hears it where serving has ended by an error.
            let _ended = self.sender.send((number, answer));
            self.bell.ring();
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.keep(Err(Error::new("ask", Reason::Closed)));
    }
}

/// What goes on with a client.
enum State {
    /// Its request has to be here by then.
    Asking { until: Instant },
    /// Its request is being done.
    Waiting,
    /// Its answer has to be taken by then; if it was the last one, it is dropped.
    Taking { until: Instant, last: bool },
    /// It is dropped.
    Gone,
}

struct Client {
    stream: UnixStream,
    state: State,
    /// Of the request, or of the answer.
    bytes: Vec<u8>,
    /// Bytes of the answer that are taken.
    taken: usize,
    /// The group for which it may hold the volume: that ends with it.
    holds: Option<[u8; 16]>,
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        let until = Instant::now() + SILENCE;
        Self { stream, state: State::Asking { until }, bytes: Vec::new(), taken: 0, holds: None }
    }

    fn until(&self) -> Option<Instant> {
        match self.state {
            State::Asking { until } | State::Taking { until, .. } => Some(until),
            State::Waiting | State::Gone => None,
        }
    }

    /// Whether it is still to be served; when serving ends, only who is owed an answer.
    fn stays(&self, now: Instant, stopped: bool) -> bool {
        match self.state {
            State::Asking { until } => until > now && !stopped,
            State::Taking { until, .. } => until > now,
            State::Waiting => true,
            State::Gone => false,
        }
    }

    fn waits_for(&self) -> Option<PollFlags> {
        match self.state {
            State::Asking { .. } => Some(PollFlags::IN),
            State::Taking { .. } => Some(PollFlags::OUT),
            State::Waiting | State::Gone => None,
        }
    }

    /// Goes on as far as the socket lets it; a request, if one is complete.
    fn turn(&mut self) -> Option<Request> {
        match self.state {
            State::Asking { .. } => match self.read() {
                Ok(request) => request,
                Err(refused) => {
                    self.refuse(refused);
                    None
                }
            },
            State::Taking { .. } => {
                self.write();
                None
            }
            State::Waiting | State::Gone => None,
        }
    }

    fn read(&mut self) -> Result<Option<Request>> {
        loop {
            let mut wanted = HEADER_BYTES;
            if let Some(header) = self.bytes.first_chunk() {
                let (kind, length) = ControlHeader::decode(header, REQUEST_BYTES_MAX)?;
                wanted += length;
                if self.bytes.len() == wanted {
                    let request = Request::decode(kind, &self.bytes[HEADER_BYTES..])?;
                    self.bytes.clear();
                    self.state = State::Waiting;
                    return Ok(Some(request));
                }
            }
            let mut piece = [0; HEADER_BYTES + REQUEST_BYTES_MAX];
            match self.stream.read(&mut piece[..wanted - self.bytes.len()]) {
                Ok(count @ 1..) => self.bytes.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Ok(0) | Err(_) => {
                    self.state = State::Gone;
                    return Ok(None);
                }
            }
        }
    }

    /// Answers what was asked.
    fn answer(&mut self, answer: &Result<Answer>) {
        if matches!(self.state, State::Waiting) {
            self.say(answer, false);
        }
    }

    /// Says why it is not served, and drops it: where its next message would begin, nobody knows.
    fn refuse(&mut self, why: Error) {
        self.say(&Err(why), true);
    }

    fn say(&mut self, answer: &Result<Answer>, last: bool) {
        match Answer::encode(answer) {
            Ok(bytes) => {
                (self.bytes, self.taken) = (bytes, 0);
                self.state = State::Taking { until: Instant::now() + TAKING_MAX, last };
                self.write();
            }
            Err(_unsayable) => self.state = State::Gone,
        }
    }

    fn write(&mut self) {
        while self.taken < self.bytes.len() {
            match self.stream.write(&self.bytes[self.taken..]) {
                Ok(count @ 1..) => self.taken += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => {
                    self.state = State::Gone;
                    return;
                }
            }
        }
        // What an answer has taken is given back.
        self.bytes = Vec::new();
        self.state = match self.state {
            State::Taking { last: false, .. } => State::Asking { until: Instant::now() + SILENCE },
            _ => State::Gone,
        };
    }
}
