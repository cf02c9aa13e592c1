//! What the suites work on: the bare span, a volume, or an image of one of its snapshots; and everything that is asked
//! of the engine about snapshots, in one place.

use std::rc::Rc;

use icecore::buf::Buf;
use icecore::device::Device;
use icecore::error::{Error, Reason, Result};
use icecore::object::ObjectKind;
use icecore::store::Backend;
use icecore::store::log::{Image, ImageOptions, OpenOptions};
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{CreateOptions, OpenMode, Volume};

use super::peer::Peer;
use crate::arms::Arm;
use crate::arms::target::{Bare, Target};
use crate::bench::Bench;
use crate::content;
use crate::failure::Failure;
use crate::nbd::Export;

/// A backend, and what takes what its snapshots need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub backend: Backend,
    pub objects: ObjectKind,
}

impl Kept {
    /// With linear objects: an arm of its own.
    const LINEAR: [(&str, Backend); 3] = [
        ("cow-linear", Backend::Cow),
        ("logged-cow-linear", Backend::LoggedCow),
        ("overlay-linear", Backend::Overlay),
    ];

    /// The backend of this name; with linear objects, where that is said behind a hyphen.
    ///
    /// # Errors
    /// A usage failure that lists the names of backends, or says what is none.
    pub fn from_name(name: &str) -> std::result::Result<Self, Failure> {
        if let Some((_, backend)) = Self::LINEAR.into_iter().find(|(own, _)| *own == name) {
            return Ok(Self { backend, objects: ObjectKind::Linear });
        }
        match Arm::from_name(name)? {
            Arm::Engine(backend) => Ok(Self::mapped(backend)),
            _ => Err(Failure::usage(format!("{name} keeps no volume; raw always runs beside the others"))),
        }
    }

    /// As a backend is made unless something else is asked for.
    pub fn mapped(backend: Backend) -> Self {
        Self { backend, objects: ObjectKind::Mapped }
    }

    /// How a volume of it is made.
    pub fn options(&self, size_bytes: u64) -> CreateOptions {
        let size_bytes = Some(size_bytes);
        CreateOptions { size_bytes, objects: self.objects, ..CreateOptions::new(self.backend) }
    }

    /// The name in results.
    pub fn name(&self) -> &'static str {
        let own = Self::LINEAR.into_iter().find(|(_, backend)| *backend == self.backend);
        match (self.objects, own) {
            (ObjectKind::Linear, Some((name, _))) => name,
            _ => self.backend.name(),
        }
    }
}

/// An arm of a suite: what is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The bare device.
    Raw,
    /// The bare device, by the program fio.
    Fio,
    /// A volume of this backend.
    Engine(Kept),
    /// Another system's device.
    Peer(Rc<Peer>),
}

impl Who {
    /// The name in results.
    pub fn name(&self) -> &str {
        match self {
            Who::Raw => Arm::Raw.name(),
            Who::Fio => Arm::Fio.name(),
            Who::Engine(kept) => kept.name(),
            Who::Peer(peer) => &peer.name,
        }
    }
}

/// What reads and writes go to.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Bare(Bare),
    Volume(Volume),
    Image(Rc<Image>),
    Scattered(Rc<Scattered>),
    Export(Export),
}

/// The blocks of a small span, scattered over a larger subject: each lies somewhere in a stretch of its own.
#[derive(Debug)]
pub(super) struct Scattered {
    over: Subject,
    stretch_blocks: u64,
}

impl Scattered {
    fn place(&self, block: u64) -> u64 {
        // Anywhere in its stretch, and always there: the fraction of a multiple of the golden ratio.
        let somewhere = block.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let within = (u128::from(somewhere) * u128::from(self.stretch_blocks)) >> 64;
        block * self.stretch_blocks + within as u64
    }

    /// Block by block, with the buffer's part of each.
    async fn each(
        &self,
        offset_bytes: u64,
        mut buf: Buf,
        one: impl AsyncFn(u64, Buf) -> (Result<()>, Buf),
    ) -> (Result<()>, Buf) {
        let (mut done, mut block) = (None::<Buf>, offset_bytes / 4096);
        loop {
            let rest = (buf.len() > 4096).then(|| buf.split_off(4096));
            let (result, back) = one(self.place(block) * 4096, buf).await;
            let so_far = match done.take() {
                Some(mut so_far) => {
                    so_far.join(back);
                    so_far
                }
                None => back,
            };
            match (result, rest) {
                (Ok(()), Some(rest)) => (buf, done, block) = (rest, Some(so_far), block + 1),
                (result, _) => return (result, so_far),
            }
        }
    }
}

impl Subject {
    /// A span of so many bytes, scattered over this, which is so large.
    pub fn scattered(&self, size_bytes: u64, span_bytes: u64) -> Self {
        let stretch_blocks = size_bytes / span_bytes;
        Subject::Scattered(Rc::new(Scattered { over: self.clone(), stretch_blocks }))
    }
}

impl Target for Subject {
    const FLUSHES_APART: bool = false;

    async fn read(&self, offset_bytes: u64, buf: Buf) -> (Result<()>, Buf) {
        match self {
            Subject::Bare(bare) => bare.read(offset_bytes, buf).await,
            Subject::Volume(volume) => Target::read(volume, offset_bytes, buf).await,
            Subject::Export(export) => export.read(offset_bytes, buf).await,
            Subject::Image(image) => image.read(ByteOffset(offset_bytes), buf).await,
            Subject::Scattered(scattered) => {
                let read = async |at, buf| Box::pin(scattered.over.read(at, buf)).await;
                scattered.each(offset_bytes, buf, read).await
            }
        }
    }

    async fn write(&self, offset_bytes: u64, buf: Buf, durable: bool) -> (Result<()>, Buf) {
        match self {
            Subject::Bare(bare) => bare.write(offset_bytes, buf, durable).await,
            Subject::Volume(volume) => Target::write(volume, offset_bytes, buf, durable).await,
            Subject::Export(export) => export.write(offset_bytes, buf, durable).await,
            Subject::Image(_) => (Err(Error::new("write image", Reason::ReadOnly)), buf),
            Subject::Scattered(scattered) => {
                let write = async |at, buf| Box::pin(scattered.over.write(at, buf, durable)).await;
                scattered.each(offset_bytes, buf, write).await
            }
        }
    }

    async fn flush(&self) -> Result<()> {
        match self {
            Subject::Bare(bare) => bare.flush().await,
            Subject::Volume(volume) => Target::flush(volume).await,
            Subject::Export(export) => export.flush().await,
            Subject::Image(_) => Ok(()),
            Subject::Scattered(scattered) => Box::pin(scattered.over.flush()).await,
        }
    }
}

/// An open volume with named snapshots.
#[derive(Clone, Debug)]
pub(super) struct Keeper(pub Volume);

/// The space that a volume takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    /// Of blocks that live, the past included.
    pub live_bytes: u64,
    /// Of whole segments in use, with what has died in them and the index.
    pub segment_bytes: u64,
}

impl Keeper {
    pub async fn open(device: &Device) -> Result<Self> {
        Ok(Self(Volume::open(device.clone(), OpenMode::ReadWrite).await?))
    }

    /// Opens it so that what is read of an overlay goes home, or does not.
    pub async fn open_moving(device: &Device, moves: bool) -> Result<Self> {
        let options = OpenOptions { move_home_on_read: moves, ..OpenOptions::default() };
        Ok(Self(Volume::open_with(device.clone(), OpenMode::ReadWrite, options).await?))
    }

    pub fn subject(&self) -> Subject {
        Subject::Volume(self.0.clone())
    }

    pub async fn take(&self, name: &str) -> Result<()> {
        self.0.create_snapshot(name).await.map(|_| ())
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        self.0.delete_snapshot(name).await
    }

    /// Brings the oldest overlay, which ends with this snapshot, into the base.
    pub async fn fold(&self, name: &str) -> Result<Seq> {
        self.0.fold(Some(name)).await
    }

    /// Goes back to a snapshot.
    pub async fn go_back(&self, name: &str) -> Result<Seq> {
        let moment = self.0.snapshot(name)?.sequence;
        self.0.rollback(moment).await
    }

    /// What a snapshot shows.
    pub async fn image(&self, name: &str) -> Result<Subject> {
        let sequence = Some(self.0.snapshot(name)?.sequence);
        let image = self.0.image(ImageOptions { sequence, ..ImageOptions::default() }).await?;
        Ok(Subject::Image(Rc::new(image)))
    }

    /// `None` where the backend does not say.
    pub fn space(&self) -> Option<Space> {
        let status = self.0.status();
        let (log, settings) = (status.log?, status.info.log?);
        let used = u64::from(log.segments - log.free_segments);
        Some(Space {
            live_bytes: log.live_blocks * u64::from(status.info.block_bytes),
            segment_bytes: used * u64::from(settings.segment_bytes),
        })
    }
}

/// What a backend can do with snapshots, found by asking a volume of it; where it cannot, what it says.
#[derive(Clone, Debug)]
pub(super) struct Abilities {
    pub take: std::result::Result<(), String>,
    pub image: std::result::Result<(), String>,
    pub go_back: std::result::Result<(), String>,
    pub delete: std::result::Result<(), String>,
    pub move_home: std::result::Result<(), String>,
    pub fold: std::result::Result<(), String>,
}

impl Abilities {
    /// Asks a new volume of the smallest size on this device. Its contents are lost.
    ///
    /// # Errors
    /// No volume can be made or opened.
    pub fn of(bench: &Bench, kept: Kept, size_bytes: u64) -> std::result::Result<Self, Failure> {
        const NAME: &str = "probe";
        content::format(bench, kept.backend, kept.objects, Some(size_bytes))?;
        bench.runtime().block_on(async {
            let keeper = Keeper::open(bench.device()).await?;
            let mut buf = keeper.0.context().buffers().zeroed(4096)?;
            let (written, back) = keeper.subject().write(0, buf, false).await;
            written?;
            buf = back;
            let say = |result: Result<()>| result.map_err(|error| error.to_string());
            let take = say(keeper.take(NAME).await);
            keeper.subject().write(0, buf, false).await.0?;
            let image = say(keeper.image(NAME).await.map(drop));
            let go_back = say(keeper.go_back(NAME).await.map(drop));
            let delete = say(keeper.delete(NAME).await);
            keeper.0.close().await?;
            let of_overlays = |otherwise: &str| match kept.backend {
                Backend::Overlay => Ok(()),
                _ => Err(otherwise.to_owned()),
            };
            let move_home = of_overlays("nothing moves home as it is read");
            let fold = of_overlays("it has no overlays to bring into a base");
            Ok(Self { take, image, go_back, delete, move_home, fold })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench;

    #[test]
    fn scattered_blocks_have_stretches_of_their_own() {
        let Ok(runtime) = bench::runtime(1) else {
            println!("skipped: no io_uring");
            return;
        };
        let device = Device::null(runtime.context(), 1 << 30);
        let over = Subject::Bare(Bare::new(&device, 0));
        let places = |stretch_blocks: u64| {
            let scattered = Scattered { over: over.clone(), stretch_blocks };
            (0..1000).map(|block| scattered.place(block)).collect::<Vec<u64>>()
        };
        assert_eq!(places(1), (0..1000).collect::<Vec<_>>(), "nowhere to go");
        let within: Vec<u64> =
            places(64).into_iter().zip(0..).map(|(place, block)| place - block * 64).collect();
        assert!(within.iter().all(|place| *place < 64));
        let most = (0..64).map(|at| within.iter().filter(|place| **place == at).count()).max().unwrap();
        assert!(most < 2 * 1000 / 64, "{most} of 1000 at the same place of their stretches");
        // A request of several blocks becomes as many, and its buffer is one again.
        let scattered = over.scattered(1 << 30, 1 << 20);
        let before = device.ledger().tally(icecore::device::Cause::Application).writes;
        let length = runtime.block_on(async {
            let buf = runtime.context().buffers().zeroed(5 * 4096).unwrap();
            let (result, buf) = scattered.write(4096, buf, false).await;
            result.unwrap();
            buf.len()
        });
        let after = device.ledger().tally(icecore::device::Cause::Application).writes;
        assert_eq!((length, after - before), (5 * 4096, 5));
    }
}
