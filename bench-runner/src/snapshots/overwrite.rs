//! `overwrite-fraction`: what it costs to overwrite a part of a volume once after a snapshot, in bytes of the device and
//! in space.

use super::stage::{Stage, figure};
use crate::failure::Failure;

/// Percent of the span.
const FRACTIONS: [u64; 4] = [1, 5, 25, 100];
const NAME: &str = "overwrite";

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    for percent in FRACTIONS {
        let (subject, keeper) = stage.prepare()?;
        let mut load = stage.load(&subject);
        if let Some(keeper) = &keeper {
            stage.patiently("taking a snapshot", keeper.take(NAME))?;
            stage.settle(&subject)?;
        }
        let space = || keeper.as_ref().and_then(|keeper| keeper.space());
        let before = space();
        load.once((stage.blocks() * percent).div_ceil(100));
        let since = stage.mark();
        let seen = stage.to_its_end(&mut load)?;
        stage.settle(&subject)?;
        let changed = (seen.writes() * 4096) as f64;
        let grown = before.zip(space()).map(|(before, after)| {
            let since = |then: u64, now: u64| (now as f64 - then as f64) / changed;
            (since(before.live_bytes, after.live_bytes), since(before.segment_bytes, after.segment_bytes))
        });
        let of = |stat, value| figure("space_per_changed_byte", stat, "1", value);
        let space = vec![of("live", grown.map(|grown| grown.0)), of("segments", grown.map(|grown| grown.1))];
        let space = if keeper.is_some() { space } else { Vec::new() };
        stage.part(&format!("overwrite-{percent}"), Some(1), &since, seen, space);
        stage.meddle();
        let now = load.completed();
        stage.verify("the volume", &subject, (&now, &now))?;
        if let Some(keeper) = &keeper {
            let image = stage.patiently("opening an image", keeper.image(NAME))?;
            stage.verify("the snapshot", &image, (&[], &[]))?;
            drop(image);
            stage.patiently("closing", keeper.0.close())?;
        }
    }
    Ok(())
}
