//! What the suites work on: the bare span, a volume, or an image of one of its snapshots; and everything that is asked
//! of the engine about snapshots, in one place.

use std::rc::Rc;

use icecore::buf::Buf;
use icecore::device::Device;
use icecore::error::{Error, Reason, Result};
use icecore::object::ObjectKind;
use icecore::store::Backend;
use icecore::store::log::{Image, ImageOptions};
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{OpenMode, Volume};

use super::peer::Peer;
use crate::arms::Arm;
use crate::arms::target::{Bare, Target};
use crate::bench::Bench;
use crate::content;
use crate::failure::Failure;

/// A backend, and what takes what its snapshots need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub backend: Backend,
    pub objects: ObjectKind,
}

impl Kept {
    /// With linear objects: an arm of its own.
    const LINEAR: [(&str, Backend); 2] = [("cow-linear", Backend::Cow), ("overlay-linear", Backend::Overlay)];

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
}

impl Target for Subject {
    const FLUSHES_APART: bool = false;

    async fn read(&self, offset_bytes: u64, buf: Buf) -> (Result<()>, Buf) {
        match self {
            Subject::Bare(bare) => bare.read(offset_bytes, buf).await,
            Subject::Volume(volume) => Target::read(volume, offset_bytes, buf).await,
            Subject::Image(image) => image.read(ByteOffset(offset_bytes), buf).await,
        }
    }

    async fn write(&self, offset_bytes: u64, buf: Buf, durable: bool) -> (Result<()>, Buf) {
        match self {
            Subject::Bare(bare) => bare.write(offset_bytes, buf, durable).await,
            Subject::Volume(volume) => Target::write(volume, offset_bytes, buf, durable).await,
            Subject::Image(_) => (Err(Error::new("write image", Reason::ReadOnly)), buf),
        }
    }

    async fn flush(&self) -> Result<()> {
        match self {
            Subject::Bare(bare) => bare.flush().await,
            Subject::Volume(volume) => Target::flush(volume).await,
            Subject::Image(_) => Ok(()),
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

    pub fn subject(&self) -> Subject {
        Subject::Volume(self.0.clone())
    }

    pub async fn take(&self, name: &str) -> Result<()> {
        self.0.create_snapshot(name).await.map(|_| ())
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        self.0.delete_snapshot(name).await
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
            Ok(Self { take, image, go_back, delete })
        })
    }
}
