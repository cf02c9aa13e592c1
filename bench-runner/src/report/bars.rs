//! A picture of bars that lie below each other, each made of parts.

use super::svg::{Anchor, Frame, Scale, WIDTH};

/// Height of a bar with its space.
const ROW_HEIGHT: f64 = 24.0;
/// Width of a character of a label, a little more than a sans-serif font takes.
const CHARACTER_WIDTH: f64 = 7.2;

/// A bar.
pub(super) struct Bar {
    /// What it is of.
    pub label: String,
    /// Its parts from the left: the class of their colour, their length, and what the pointer shows.
    pub parts: Vec<(String, f64, String)>,
    /// Its length in words.
    pub total: String,
}

/// The picture; `one` draws a line at 1. `None` without bars.
pub(super) fn bars(
    bars: &[Bar],
    title: &str,
    tick_text: impl Fn(f64) -> String,
    one: bool,
    label: &str,
) -> Option<String> {
    let longest = bars.iter().map(|bar| bar.label.chars().count()).max()?;
    let length = |bar: &Bar| bar.parts.iter().map(|part| part.1).sum::<f64>();
    let most = bars.iter().map(length).chain(one.then_some(1.0)).fold(0.0, f64::max);
    let left = (longest as f64 * CHARACTER_WIDTH + 10.0).min(WIDTH * 0.6);
    let x = Scale::linear(0.0, most * 1.02);
    let height = bars.len() as f64 * ROW_HEIGHT + 58.0;
    let mut frame = Frame::new(height, (left, 66.0, 6.0, 46.0), x, Scale::linear(0.0, 1.0));
    // Nothing is nothing in any unit.
    let text_of = |tick: f64| if tick == 0.0 { "0".to_owned() } else { tick_text(tick) };
    // Long labels leave little room: as many ticks as stand clear of each other.
    let room = (WIDTH - left - 66.0) / 58.0;
    let ticks: Vec<(f64, String)> = x.ticks().into_iter().map(|tick| (tick, text_of(tick))).collect();
    let step = (ticks.len() as f64 / room).ceil().max(1.0) as usize;
    frame.x_axis(&ticks.into_iter().step_by(step).collect::<Vec<_>>(), title);
    for (index, bar) in bars.iter().enumerate() {
        let top = 6.0 + index as f64 * ROW_HEIGHT + 4.0;
        let middle = top + ROW_HEIGHT / 2.0 - 4.0;
        frame.text(left - 10.0, middle + 4.5, Anchor::End, "tick", &bar.label);
        let mut from = 0.0;
        for (class, length, hover) in &bar.parts {
            frame.bar(class, (from, from + length), (top, ROW_HEIGHT - 8.0), hover);
            from += length;
        }
        frame.text(WIDTH - 2.0, middle + 4.5, Anchor::End, "tick", &bar.total);
    }
    if one {
        frame.vertical(1.0, "one");
    }
    Some(frame.finish(label))
}
