//! Further volumes of a pool: made, listed, opened, given up.

use super::Volume;
use crate::error::Result;
use crate::format::superblock::FEATURE_VOLUMES;
use crate::store::log::FurtherVolume;

impl Volume {
    /// Makes a further volume in the pool of a `log` volume: it reads as zero, and shares log, past and space with the
    /// others. One record, durable when it returns; a dropped future does not stop it half way.
    ///
    /// # Errors
    /// `NoPast`, `NoVolumes` where the backend has one volume in a pool, `InvalidSetting` for name and size,
    /// `SnapshotExists`, `TooManySnapshots`: names are shared with snapshots; `Poisoned`, `Closed`, and what the device says.
    pub async fn create_volume(&self, name: &str, size_bytes: u64) -> Result<FurtherVolume> {
        let (volume, name) = (self.clone(), name.to_string());
        let making = async move {
            volume.check_writable("make volume")?;
            let log = volume.0.store.log()?;
            log.check_volume(&name, size_bytes, volume.info().region_bytes.into())?;
            volume.use_feature(FEATURE_VOLUMES).await?;
            log.create_volume(&name, size_bytes).await
        };
        self.context().to_its_end("make volume", making).await
    }

    /// The further volumes of the pool, by their names.
    pub fn volumes(&self) -> Vec<FurtherVolume> {
        self.0.store.log().map(|log| log.volumes()).unwrap_or_default()
    }

    /// Opens a further volume; it is closed with the pool's own. Opened twice, it is the same one. Snapshots of it are
    /// taken as of any volume; their names are the pool's.
    ///
    /// # Errors
    /// `NoPast`, `NoVolume`, `Closed`, and what the device says.
    pub async fn open_volume(&self, name: &str) -> Result<Self> {
        self.0.store.log()?.further_volume(name)?;
        self.open_writable(name).await
    }

    /// Gives up a further volume that nobody has open, and that has no snapshots, durably. Its space comes free in the
    /// background.
    ///
    /// # Errors
    /// `NoPast`, `NoVolume`, `HasChildren`, `SnapshotInUse` where it is open, `Poisoned`, `Closed`, and what the device says.
    pub async fn delete_volume(&self, name: &str) -> Result<()> {
        self.check_writable("delete volume")?;
        let (volume, name) = (self.clone(), name.to_string());
        let deleting = async move { volume.0.store.log()?.delete_volume(&name).await };
        self.context().to_its_end("delete volume", deleting).await
    }
}
