//! What an I/O costs the processor, for each arm, workload and depth.

use std::fmt::Write;

use super::bars::{Bar, bars};
use super::text::{short, time};
use super::view::View;

/// The whole part; nothing where no CPU time is known.
pub(super) fn cost(view: &View, page: &mut String) {
    let places = view.panels().flat_map(|panel| view.arms.iter().map(move |arm| (panel, *arm)));
    let rows: Vec<Bar> = places
        .filter_map(|(panel, arm)| {
            let parts: Vec<(String, f64, String)> =
                [("user", "cpu_user", ""), ("system", "cpu_system", " half")]
                    .into_iter()
                    .filter_map(|(name, metric, shade)| {
                        let ns = view.value(arm, panel, "all", metric, "mean")?;
                        Some((
                            format!("{}{shade}", view.colour(arm)),
                            ns,
                            format!("{arm}: {name} {}", time(ns)),
                        ))
                    })
                    .collect();
            (!parts.is_empty()).then(|| Bar {
                label: format!("{arm} {} qd {}", panel.0, panel.1),
                total: time(parts.iter().map(|part| part.1).sum()),
                parts,
            })
        })
        .collect();
    let picture = bars(
        &rows,
        "CPU time of the measuring thread for each I/O",
        |tick| short(time(tick)),
        false,
        "CPU time for each I/O, user and system",
    );
    let Some(picture) = picture else { return };
    let _ = write!(
        page,
        "<h2>CPU per I/O</h2>\n<p>Time of the measuring thread for one I/O: user in full colour, system in a lighter one. What \
         the kernel does elsewhere is not in it.</p>\n<figure>{picture}</figure>\n"
    );
}
