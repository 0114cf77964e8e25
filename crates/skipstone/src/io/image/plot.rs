//! Charts without system fonts: curves over linear or logarithmic axes.

use font8x8::{BASIC_FONTS, UnicodeFonts};

use super::Picture;
use crate::error::{Error, Result};

pub(crate) const WIDTH: usize = 960;
pub(crate) const HEIGHT: usize = 540;
/// Edges of the plot area within the picture.
pub(crate) const LEFT: usize = 110;
pub(crate) const RIGHT: usize = WIDTH - 30;
pub(crate) const TOP: usize = 50;
pub(crate) const BOTTOM: usize = HEIGHT - 70;
/// Side length of each dot of the 8×8 font.
const TEXT_SCALE: usize = 2;
const GLYPH: usize = 8 * TEXT_SCALE;

/// Red, green, blue.
pub type Color = [u8; 3];
const BACKGROUND: Color = [255, 255, 255];
const GRID: Color = [230, 232, 236];
const INK: Color = [60, 66, 76];

/// The scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Linear.
    Linear,
    /// Logarithmic; values that are not positive have no position.
    Log,
}

impl Scale {
    /// The position of a value before the axis is fitted to pixels; `None` if it has none.
    fn position(self, value: f64) -> Option<f64> {
        match self {
            Self::Linear => value.is_finite().then_some(value),
            Self::Log => (value.is_finite() && value > 0.0).then(|| value.log10()),
        }
    }

    /// The values to mark between two positions, each with whether it has a label.
    fn ticks(self, low: f64, high: f64) -> Vec<(f64, bool)> {
        match self {
            Self::Linear => linear_ticks(low, high).into_iter().map(|value| (value, true)).collect(),
            Self::Log => log_ticks(low, high),
        }
    }
}

/// An axis of a chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AxisStyle<'a> {
    /// The label, which names the quantity.
    pub label: &'a str,
    /// The scale.
    pub scale: Scale,
    /// Extra room at either end, as a fraction of the range of values.
    pub margin: f64,
}

/// A curve through points (x, y), interrupted where a point has no position.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The points, in drawing order.
    pub points: Vec<[f64; 2]>,
    /// Colour.
    pub color: Color,
    /// Line width in pixels.
    pub width: f64,
    /// Whether to mark every point with a dot.
    pub dots: bool,
}

/// Curves over a pair of axes.
///
/// ```
/// use skipstone::io::image::plot::{AxisStyle, Chart, Curve, Scale};
/// let axis = |label| AxisStyle { label, scale: Scale::Log, margin: 0.05 };
/// let curve = Curve { points: vec![[10.0, 0.1], [100.0, 0.01]], color: [20, 90, 170], width: 3.0, dots: true };
/// let picture = Chart { title: "error", x: axis("steps"), y: axis("mse"), curves: &[curve] }.draw()?;
/// assert_eq!(picture.channels(), 3);
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Chart<'a> {
    /// The title above the plot, in ASCII (the font has nothing else).
    pub title: &'a str,
    /// The horizontal axis.
    pub x: AxisStyle<'a>,
    /// The vertical axis.
    pub y: AxisStyle<'a>,
    /// The curves; later ones are drawn above earlier ones.
    pub curves: &'a [Curve],
}

impl Chart<'_> {
    /// Draws the chart.
    ///
    /// # Errors
    /// No point has a position on both axes.
    pub fn draw(&self) -> Result<Picture> {
        let place = |point: &[f64; 2]| Some([self.x.scale.position(point[0])?, self.y.scale.position(point[1])?]);
        let placed: Vec<[f64; 2]> =
            self.curves.iter().flat_map(|curve| curve.points.iter().filter_map(place)).collect();
        if placed.is_empty() {
            return Err(Error::argument(format!(
                "{}: no finite point to draw (positive on a logarithmic axis)",
                self.title
            )));
        }
        let range = |i: usize| {
            placed.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| (low.min(p[i]), high.max(p[i])))
        };
        let x = Axis::new(range(0), self.x.margin, [LEFT, RIGHT]);
        let y = Axis::new(range(1), self.y.margin, [BOTTOM, TOP]);

        let mut canvas = Canvas::new();
        for (value, labelled) in self.x.scale.ticks(x.low, x.high) {
            let at = x.place(self.x.scale.position(value).unwrap_or(x.low)).round();
            canvas.line([at, TOP as f64], [at, BOTTOM as f64], GRID, 1.0);
            if labelled {
                canvas.text_centred(&self.x.scale.text(value), at as usize, BOTTOM + 12, INK);
            }
        }
        for (value, labelled) in self.y.scale.ticks(y.low, y.high) {
            let at = y.place(self.y.scale.position(value).unwrap_or(y.low)).round();
            canvas.line([LEFT as f64, at], [RIGHT as f64, at], GRID, 1.0);
            if labelled {
                let label = self.y.scale.text(value);
                canvas.text(&label, (LEFT - 12).saturating_sub(label.len() * GLYPH), at as usize - GLYPH / 2, INK);
            }
        }
        canvas.line([LEFT as f64, BOTTOM as f64], [RIGHT as f64, BOTTOM as f64], INK, 1.0);
        canvas.line([LEFT as f64, TOP as f64], [LEFT as f64, BOTTOM as f64], INK, 1.0);
        canvas.text_centred(self.title, (LEFT + RIGHT) / 2, 18, INK);
        canvas.text_centred(self.x.label, (LEFT + RIGHT) / 2, BOTTOM + 40, INK);
        canvas.text(self.y.label, 14, TOP - 32, INK);

        for curve in self.curves {
            let points = curve.points.iter().map(|p| place(p).map(|[px, py]| [x.place(px), y.place(py)]));
            if curve.dots {
                for point in points.clone().flatten() {
                    canvas.line(point, point, curve.color, curve.width + 7.0);
                }
            }
            canvas.curve(points, curve.color, curve.width);
        }
        Picture::new(WIDTH, HEIGHT, 3, canvas.pixels)
    }
}

/// Maps a range of values to a range of pixels.
struct Axis {
    low: f64,
    high: f64,
    pixels: [usize; 2],
}

impl Axis {
    fn new((low, high): (f64, f64), margin: f64, pixels: [usize; 2]) -> Self {
        // A single point gets room on both sides.
        let margin = if high > low { margin * (high - low) } else { 0.5 };
        Self { low: low - margin, high: high + margin, pixels }
    }

    fn place(&self, value: f64) -> f64 {
        let [from, to] = self.pixels.map(|p| p as f64);
        from + (value - self.low) / (self.high - self.low) * (to - from)
    }
}

/// About five round values: 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = ((high - low) / 5.0).max(1.0);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    (first..).map(|k| k as f64 * step).take_while(|v| *v <= high).take(20).collect()
}

/// 1 to 9 times the powers of ten within the range, each with whether it has a label. Over many decades only powers
/// have labels, over a few 1, 2 and 5, within a single decade all.
fn log_ticks(low: f64, high: f64) -> Vec<(f64, bool)> {
    let labelled = |m: i32| match high - low {
        span if span > 3.0 => m == 1,
        span if span > 0.8 => matches!(m, 1 | 2 | 5),
        _ => true,
    };
    let mut ticks = Vec::new();
    for power in low.floor() as i32..=high.floor() as i32 {
        for m in 1..=9 {
            // Parsed rather than multiplied, so that 3·10^-3 prints as 0.003.
            let value: f64 = format!("{m}e{power}").parse().unwrap_or(0.0);
            if value > 0.0 && (low..=high).contains(&value.log10()) {
                ticks.push((value, labelled(m)));
            }
        }
    }
    // The range is too narrow for a round value, so label its middle.
    if !ticks.iter().any(|t| t.1) {
        let middle = 10f64.powf((low + high) / 2.0);
        ticks.push((format!("{middle:.2e}").parse().unwrap_or(middle), true));
    }
    ticks
}

impl Scale {
    /// The label of a tick.
    fn text(self, value: f64) -> String {
        match self {
            Self::Linear => short(value),
            // 1e-4 fits where 0.0001 would touch the edge.
            Self::Log if !(1e-3..1e5).contains(&value) => format!("{value:e}"),
            Self::Log => format!("{value}"),
        }
    }
}

/// 1500 as 1.5k, 2000000 as 2M.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}

struct Canvas {
    pixels: Vec<u8>,
}

impl Canvas {
    fn new() -> Self {
        Self { pixels: BACKGROUND.repeat(WIDTH * HEIGHT) }
    }

    /// Blends `color` into a pixel; ignores pixels outside the picture.
    fn mix(&mut self, x: i64, y: i64, color: Color, cover: f64) {
        if (0..WIDTH as i64).contains(&x) && (0..HEIGHT as i64).contains(&y) {
            let at = (y as usize * WIDTH + x as usize) * 3;
            for (pixel, c) in self.pixels[at..at + 3].iter_mut().zip(color) {
                *pixel = (f64::from(*pixel) + (f64::from(c) - f64::from(*pixel)) * cover).round() as u8;
            }
        }
    }

    /// A straight line with soft edges: a pixel's coverage depends on the distance of its centre from the line.
    fn line(&mut self, a: [f64; 2], b: [f64; 2], color: Color, width: f64) {
        let reach = width / 2.0 + 1.0;
        let bounds = |i: usize| ((a[i].min(b[i]) - reach).floor() as i64, (a[i].max(b[i]) + reach).ceil() as i64);
        let ((left, right), (top, bottom)) = (bounds(0), bounds(1));
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let length2 = dx * dx + dy * dy;
        for y in top..=bottom {
            for x in left..=right {
                let (px, py) = (x as f64 - a[0], y as f64 - a[1]);
                let along = if length2 > 0.0 { ((px * dx + py * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
                let distance = (px - along * dx).hypot(py - along * dy);
                let cover = (width / 2.0 + 0.5 - distance).clamp(0.0, 1.0);
                if cover > 0.0 {
                    self.mix(x, y, color, cover);
                }
            }
        }
    }

    /// A line through all points, interrupted at each `None`; an isolated point is a dot.
    fn curve(&mut self, points: impl Iterator<Item = Option<[f64; 2]>>, color: Color, width: f64) {
        let mut last: Option<[f64; 2]> = None;
        for point in points {
            if let Some(point) = point {
                self.line(last.unwrap_or(point), point, color, width);
            }
            last = point;
        }
    }

    fn text_centred(&mut self, text: &str, x: usize, y: usize, color: Color) {
        self.text(text, x.saturating_sub(text.chars().count() * GLYPH / 2), y, color);
    }

    fn text(&mut self, text: &str, left: usize, top: usize, color: Color) {
        for (i, c) in text.chars().enumerate() {
            let Some(rows) = BASIC_FONTS.get(c).or_else(|| BASIC_FONTS.get('?')) else { continue };
            for (row, bits) in rows.into_iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    for dot in 0..TEXT_SCALE * TEXT_SCALE {
                        let x = left + i * GLYPH + column * TEXT_SCALE + dot % TEXT_SCALE;
                        let y = top + row * TEXT_SCALE + dot / TEXT_SCALE;
                        self.mix(x as i64, y as i64, color, 1.0);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(linear_ticks(0.0, 1000.0), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!(linear_ticks(130.0, 420.0), [200.0, 300.0, 400.0]);
        let labels = |low, high| log_ticks(low, high).into_iter().filter(|t| t.1).map(|t| t.0).collect::<Vec<_>>();
        assert_eq!(labels(-2.0, 0.0), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]);
        assert_eq!(labels(-4.5, 0.1), [1e-4, 1e-3, 1e-2, 1e-1, 1.0]);
        assert_eq!(labels(-1.65, -1.5), [0.03]);
        assert_eq!(labels(-1.65, -1.64).len(), 1);
        assert_eq!([0.0, 500.0, 1500.0, 2e6].map(short), ["0", "500", "1.5k", "2M"]);
        assert_eq!([1e-4, 1e-3, 0.5, 1e4, 1e5].map(|v| Scale::Log.text(v)), ["1e-4", "0.001", "0.5", "10000", "1e5"]);
    }

    #[test]
    fn a_power_law_is_a_straight_line_on_two_logarithmic_axes() {
        let points: Vec<[f64; 2]> = (0..=40).map(|i| 10f64.powf(i as f64 / 20.0)).map(|x| [x, x.powi(-2)]).collect();
        let color = [9, 9, 9];
        let curve = Curve { points, color, width: 3.0, dots: false };
        let axis = |label| AxisStyle { label, scale: Scale::Log, margin: 0.0 };
        let picture = Chart { title: "", x: axis("x"), y: axis("y"), curves: &[curve] }.draw().unwrap();
        let row = |x: usize| {
            let rows: Vec<usize> =
                (TOP..BOTTOM).filter(|y| picture.data()[(y * WIDTH + x) * 3..][..3] == color).collect();
            rows.iter().sum::<usize>() as f64 / rows.len() as f64
        };
        for part in [0.2, 0.5, 0.8] {
            let at = LEFT as f64 + part * (RIGHT - LEFT) as f64;
            let expected = TOP as f64 + part * (BOTTOM - TOP) as f64;
            assert!((row(at as usize) - expected).abs() < 2.0, "{part}");
        }
    }

    #[test]
    fn what_has_no_place_is_left_out_and_nothing_at_all_is_an_error() {
        let axis = |label| AxisStyle { label, scale: Scale::Log, margin: 0.05 };
        let chart = |points| {
            let curves = [Curve { points, color: [0; 3], width: 1.0, dots: true }];
            Chart { title: "t", x: axis("x"), y: axis("y"), curves: &curves }.draw()
        };
        assert!(chart(vec![[1.0, 0.0], [2.0, f64::NAN], [-1.0, 1.0]]).is_err());
        assert!(chart(vec![]).is_err());
        assert!(chart(vec![[1.0, 0.0], [2.0, 3.0]]).is_ok());
        assert!(chart(vec![[f64::MIN_POSITIVE, f64::MAX], [f64::MAX, f64::MIN_POSITIVE]]).is_ok());
    }
}
