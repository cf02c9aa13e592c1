//! A small plotting surface: scales, a frame with grid and labels, lines and dots, as SVG text.
//!
//! Colours come from CSS classes of the page, so that one picture serves light and dark. Coordinates are in the
//! units of the view box and carry one decimal.

use std::fmt::Write;

use super::text::escape;

/// Width of every picture in view-box units; labels are 13 of them high.
pub(super) const WIDTH: f64 = 560.0;

/// How values become positions between 0 and 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// From `low` to `high`.
    pub fn linear(low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Scale { low, high, logarithmic: false }
    }

    /// Logarithmic around the values, which must be positive; widened so that none lies on the edge.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>, margin: f64) -> Self {
        let (mut low, mut high) = (f64::MAX, f64::MIN_POSITIVE);
        for value in values.into_iter().filter(|value| *value > 0.0 && value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        Scale { low: low / margin, high: high * margin, logarithmic: true }
    }

    /// Where between the ends a value lies, from 0 to 1.
    pub fn position(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    /// Factors of ten between the ends of a logarithmic scale.
    pub fn decades(&self) -> f64 {
        (self.high / self.low).log10()
    }

    /// About five evenly spaced round values, which suit a logarithmic scale that spans little.
    pub fn even_ticks(&self) -> Vec<f64> {
        Scale { logarithmic: false, ..*self }.ticks()
    }

    /// About five round values within the scale.
    pub fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = self.decades();
            let factors: &[f64] = if decades < 0.8 {
                &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0]
            } else if decades < 2.5 {
                &[1.0, 2.0, 5.0]
            } else {
                &[1.0]
            };
            let exponents = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            return exponents
                .flat_map(|exponent| factors.iter().map(move |factor| factor * 10f64.powi(exponent)))
                .filter(|tick| (self.low..=self.high).contains(tick))
                .collect();
        }
        let step = round_step((self.high - self.low) / 5.0);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|index| index as f64 * step).collect()
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|round| *round >= step * 0.999)
        .unwrap_or(step)
}

/// Where a text is held.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture being drawn.
pub(super) struct Frame {
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Scale,
    y: Scale,
    body: String,
}

impl Frame {
    /// An empty picture; the margins hold the labels.
    pub fn new(height: f64, (left, right, top, bottom): (f64, f64, f64, f64), x: Scale, y: Scale) -> Self {
        Frame { height, left, right: WIDTH - right, top, bottom: height - bottom, x, y, body: String::new() }
    }

    /// A picture with the usual margins for labels at the left and below.
    pub fn usual(x: Scale, y: Scale) -> Self {
        Frame::new(300.0, (62.0, 18.0, 28.0, 48.0), x, y)
    }

    pub fn x_of(&self, value: f64) -> f64 {
        self.left + self.x.position(value) * (self.right - self.left)
    }

    pub fn y_of(&self, value: f64) -> f64 {
        self.bottom - self.y.position(value) * (self.bottom - self.top)
    }

    /// Grid lines and labels across; the axis title below.
    pub fn x_axis(&mut self, ticks: &[(f64, String)], title: &str) {
        for (value, label) in ticks {
            let x = self.x_of(*value);
            self.segment("grid", (x, self.top), (x, self.bottom));
            self.text(x, self.bottom + 17.0, Anchor::Middle, "tick", label);
        }
        self.text((self.left + self.right) / 2.0, self.bottom + 38.0, Anchor::Middle, "axis", title);
    }

    /// Grid lines and labels at the left; the axis title above them.
    pub fn y_axis(&mut self, ticks: &[(f64, String)], title: &str) {
        for (value, label) in ticks {
            let y = self.y_of(*value);
            self.segment("grid", (self.left, y), (self.right, y));
            self.text(self.left - 7.0, y + 4.5, Anchor::End, "tick", label);
        }
        self.text(2.0, 13.0, Anchor::Start, "axis", title);
    }

    /// A line over the whole height at `x`.
    pub fn vertical(&mut self, x: f64, class: &str) {
        let x = self.x_of(x);
        self.segment(class, (x, self.top), (x, self.bottom));
    }

    /// A straight line between two places in view-box units.
    pub fn segment(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = writeln!(
            self.body,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    /// A bar across between two values, at a height in view-box units; `hover` appears under the pointer.
    pub fn bar(&mut self, class: &str, (from, to): (f64, f64), (top, height): (f64, f64), hover: &str) {
        let (from, to) = (self.x_of(from), self.x_of(to));
        let _ = writeln!(
            self.body,
            r#"<rect class="bar {class}" x="{from:.1}" y="{top:.1}" width="{:.1}" height="{height:.1}"><title>{}</title></rect>"#,
            to - from,
            escape(hover)
        );
    }

    /// Rectangles of one colour: left, right, low and high end of each, in values.
    pub fn cells(&mut self, class: &str, cells: &[[f64; 4]]) {
        if cells.is_empty() {
            return;
        }
        let mut path = String::new();
        for [left, right, low, high] in cells {
            let (left, right, low, high) =
                (self.x_of(*left), self.x_of(*right), self.y_of(*low), self.y_of(*high));
            // A little over the edge, so that no seam shows between neighbours.
            let (width, height) = (right - left + 0.1, high - low - 0.1);
            let _ = write!(path, "M{left:.1},{low:.1}h{width:.1}v{height:.1}h{:.1}z", -width);
        }
        let _ = writeln!(self.body, r#"<path class="cells {class}" d="{path}"/>"#);
    }

    /// A line through values.
    pub fn line(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{:.1},{:.1} ", self.x_of(x), self.y_of(y));
        }
        if path.is_empty() {
            return;
        }
        let _ = writeln!(self.body, r#"<polyline class="line {class}" points="{}"/>"#, path.trim_end());
    }

    /// A dot at a value; `hover` appears under the pointer.
    pub fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64, hover: &str) {
        self.dot_at(class, (self.x_of(x), self.y_of(y)), radius, hover);
    }

    /// A dot at a place in view-box units.
    pub fn dot_at(&mut self, class: &str, (x, y): (f64, f64), radius: f64, hover: &str) {
        let _ = writeln!(
            self.body,
            r#"<circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="{radius:.1}"><title>{}</title></circle>"#,
            escape(hover)
        );
    }

    /// Text at a place in view-box units.
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
            escape(text)
        );
    }

    /// The picture; `label` says what it shows to those who cannot see it.
    pub fn finish(self, label: &str) -> String {
        format!(
            "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">\n{}</svg></div>\n",
            self.height,
            escape(label),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Scale::linear(0.0, 437.0).ticks(), [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert_eq!(Scale::linear(0.0, 0.0).ticks().len(), 6);
        assert_eq!(Scale::logarithmic([2.0, 40.0], 1.0).ticks(), [2.0, 5.0, 10.0, 20.0]);
        assert_eq!(Scale::logarithmic([], 1.0).ticks(), [1.0, 2.0, 5.0, 10.0]);
    }

    #[test]
    fn labels_are_escaped() {
        let mut frame = Frame::usual(Scale::linear(0.0, 1.0), Scale::linear(0.0, 1.0));
        frame.text(0.0, 0.0, Anchor::Start, "tick", "<b>");
        assert!(!frame.finish("\"<i>").contains("<b>"));
    }
}
