//! Writable snapshots of a volume.

use std::rc::Rc;

use super::{Devices, Volume};
use crate::error::Result;
use crate::format::superblock::FEATURE_BRANCHES;
use crate::store::Store;
use crate::store::log::{Image, SnapshotInfo};

impl Volume {
    /// Makes a writable snapshot that begins as what a snapshot shows. One record, durable when it returns; a
    /// dropped future does not stop it half way. That snapshot can be deleted once no writable one is left that began as it.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshot`, `SnapshotBroken`, `SnapshotExists`, `TooManySnapshots`, `TooDeep`, `InvalidSetting` for the name,
    /// `Poisoned`, `Closed`, and what the device says.
    pub async fn clone_snapshot(&self, of: &str, name: &str) -> Result<SnapshotInfo> {
        let (volume, of, name) = (self.clone(), of.to_string(), name.to_string());
        let cloning = async move {
            volume.check_writable("clone snapshot")?;
            let log = volume.0.store.log()?;
            log.check_clone(&of, &name)?;
            volume.use_feature(FEATURE_BRANCHES).await?;
            log.clone_snapshot(&of, &name).await
        };
        self.context().to_its_end("clone snapshot", cloning).await
    }

    /// Opens a writable snapshot, or a further volume: a volume of its own that shares the pool with this one, and is closed with it. Opened
    /// twice, it is the same one. Snapshots of it are taken as of any volume.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshot`, `SnapshotReadOnly` where the name is a snapshot's, `SnapshotBroken`, `Closed`, and what the
    /// device says.
    pub async fn open_writable(&self, name: &str) -> Result<Self> {
        self.check_open("open writable snapshot")?;
        if let Some(origin) = &self.0.origin {
            return Box::pin(origin.open_writable(name)).await;
        }
        let open = || self.0.writable.borrow().get(name).and_then(|one| one.upgrade()).map(Self);
        if let Some(volume) = open().filter(|volume| !volume.0.closed.get()) {
            return Ok(volume);
        }
        let store = self.0.store.log()?.open_branch(name).await?;
        // Somebody else may have been at it meanwhile.
        if let Some(volume) = open().filter(|volume| !volume.0.closed.get()) {
            return Ok(volume);
        }
        self.check_open("open writable snapshot")?;
        let (volume, objects) = (self.0.volume_device.clone(), self.0.objects_device.clone());
        let devices = Devices { pool: self.0.device.clone(), volume, objects };
        let (superblock, failed) = (Rc::clone(&self.0.superblock), self.0.failed.clone());
        let (store, origin) = (Store::Log(store), Some(self.clone()));
        let opened = Self::opened(store, devices, superblock, failed, self.0.read_only, origin);
        self.0.writable.borrow_mut().insert(name.to_string(), Rc::downgrade(&opened.0));
        Ok(opened)
    }

    /// The name of the writable snapshot, or of the further volume, that this is; none for the pool's own.
    pub fn writable_name(&self) -> Option<String> {
        self.0.store.log().ok()?.branch_name()
    }

    /// Opens the image of a snapshot, of this volume or of a writable snapshot.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshot`, `SnapshotBroken`, `Closed`, and what the device says.
    pub async fn image_of(&self, name: &str) -> Result<Image> {
        self.check_open("open image")?;
        self.0.store.log()?.image_of(name).await
    }
}
