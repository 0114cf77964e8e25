//! The loss curve of a training run as a picture, drawn without system fonts: loss on a logarithmic axis over steps.

use font8x8::{BASIC_FONTS, UnicodeFonts};

use crate::error::{Error, Result};
use crate::image::Picture;

const WIDTH: usize = 960;
const HEIGHT: usize = 540;
/// The frame of the plot within the picture.
const LEFT: usize = 110;
const RIGHT: usize = WIDTH - 30;
const TOP: usize = 50;
const BOTTOM: usize = HEIGHT - 70;
/// Each dot of the 8×8 font is a square of this side.
const TEXT_SCALE: usize = 2;
const GLYPH: usize = 8 * TEXT_SCALE;

type Color = [u8; 3];
const BACKGROUND: Color = [255, 255, 255];
const GRID: Color = [230, 232, 236];
const INK: Color = [60, 66, 76];
const RAW: Color = [176, 203, 232];
const SMOOTH: Color = [20, 90, 170];

/// Draws `losses` as (step, loss) in increasing steps: each value in a light line, their running mean in a dark one.
///
/// The running mean is an exponential one over about a fiftieth of the points. Losses that are not finite and positive
/// have no place on a logarithmic axis and leave a gap.
///
/// ```
/// let losses: Vec<(u64, f64)> = (1..100).map(|step| (step, 1.0 / step as f64)).collect();
/// let picture = skipstone::train::curve::loss_curve("training loss", &losses).unwrap();
/// assert_eq!(picture.channels(), 3);
/// ```
///
/// # Errors
/// No loss that could be drawn.
pub fn loss_curve(title: &str, losses: &[(u64, f64)]) -> Result<Picture> {
    draw(title, ["step", "loss"], losses, Smoothing::RunningMean)
}

/// The same picture of anything positive over whole numbers, as it is, with its own names for the two axes.
///
/// # Errors
/// As [`loss_curve`].
pub fn labelled_curve(title: &str, labels: [&str; 2], points: &[(u64, f64)]) -> Result<Picture> {
    draw(title, labels, points, Smoothing::None)
}

/// Whether single values or their trend is what the dark line shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Smoothing {
    None,
    RunningMean,
}

fn draw(title: &str, [across, up]: [&str; 2], losses: &[(u64, f64)], smoothing: Smoothing) -> Result<Picture> {
    let drawn: Vec<(f64, f64)> =
        losses.iter().filter(|(_, loss)| drawable(*loss)).map(|&(step, loss)| (step as f64, loss.log10())).collect();
    if drawn.is_empty() {
        return Err(Error::argument(format!("no finite positive {up} among {} to draw", losses.len())));
    }
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let x = Axis::new(range(&mut drawn.iter().map(|p| p.0)), 0.0, [LEFT, RIGHT]);
    let y = Axis::new(range(&mut drawn.iter().map(|p| p.1)), 0.04, [BOTTOM, TOP]);

    let mut canvas = Canvas::new();
    for step in linear_ticks(x.low, x.high) {
        let at = x.place(step).round() as usize;
        canvas.line([at as f64, TOP as f64], [at as f64, BOTTOM as f64], GRID, 1.0);
        canvas.text_centred(&short(step), at, BOTTOM + 12, INK);
    }
    for (value, labelled) in log_ticks(y.low, y.high) {
        let at = y.place(value.log10()).round() as usize;
        canvas.line([LEFT as f64, at as f64], [RIGHT as f64, at as f64], GRID, 1.0);
        if labelled {
            let label = if value < 1e-4 { format!("{value:e}") } else { format!("{value}") };
            canvas.text(&label, (LEFT - 12).saturating_sub(label.len() * GLYPH), at - GLYPH / 2, INK);
        }
    }
    canvas.line([LEFT as f64, BOTTOM as f64], [RIGHT as f64, BOTTOM as f64], INK, 1.0);
    canvas.line([LEFT as f64, TOP as f64], [LEFT as f64, BOTTOM as f64], INK, 1.0);
    canvas.text_centred(title, (LEFT + RIGHT) / 2, 18, INK);
    canvas.text_centred(across, (LEFT + RIGHT) / 2, BOTTOM + 40, INK);
    canvas.text(up, 14, TOP - 32, INK);

    let raw = losses.iter().map(|&(step, loss)| drawable(loss).then(|| [x.place(step as f64), y.place(loss.log10())]));
    if smoothing == Smoothing::None {
        canvas.curve(raw, SMOOTH, 2.0);
        return Picture::new(WIDTH, HEIGHT, 3, canvas.pixels);
    }
    canvas.curve(raw, RAW, 1.0);
    let smooth = running_mean(losses).into_iter();
    canvas.curve(smooth.map(|p| p.map(|(step, loss)| [x.place(step as f64), y.place(loss.log10())])), SMOOTH, 3.0);
    Picture::new(WIDTH, HEIGHT, 3, canvas.pixels)
}

fn drawable(loss: f64) -> bool {
    loss.is_finite() && loss > 0.0
}

/// The exponential mean up to each point, with the bias of its start removed; a gap where the loss has one.
fn running_mean(losses: &[(u64, f64)]) -> Vec<Option<(u64, f64)>> {
    let keep = 1.0 - 1.0 / (losses.len() as f64 / 50.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    losses
        .iter()
        .map(|&(step, loss)| {
            drawable(loss).then(|| {
                sum = keep * sum + loss;
                weight = keep * weight + 1.0;
                (step, sum / weight)
            })
        })
        .collect()
}

/// A range of values along a range of pixels.
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

/// About five round numbers of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = ((high - low) / 5.0).max(1.0);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    (first..).map(|k| k as f64 * step).take_while(|v| *v <= high).take(20).collect()
}

/// 1 to 9 times the powers of ten within the range, and which of them carry a label: powers alone over many decades, 1,
/// 2 and 5 over few, every one within a single decade.
fn log_ticks(low: f64, high: f64) -> Vec<(f64, bool)> {
    let labelled = |m: i32| match high - low {
        span if span > 3.0 => m == 1,
        span if span > 0.8 => matches!(m, 1 | 2 | 5),
        _ => true,
    };
    let mut ticks = Vec::new();
    for power in low.floor() as i32..=high.floor() as i32 {
        for m in 1..=9 {
            // Parsed, not multiplied: 3·10^-3 is to be written 0.003.
            let value: f64 = format!("{m}e{power}").parse().unwrap_or(0.0);
            if value > 0.0 && (low..=high).contains(&value.log10()) {
                ticks.push((value, labelled(m)));
            }
        }
    }
    // So narrow that no round number lies inside: the middle says where it is.
    if !ticks.iter().any(|t| t.1) {
        let middle = 10f64.powf((low + high) / 2.0);
        ticks.push((format!("{middle:.2e}").parse().unwrap_or(middle), true));
    }
    ticks
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

    /// Mixes `color` into a pixel; outside the picture nothing happens.
    fn mix(&mut self, x: i64, y: i64, color: Color, cover: f64) {
        if (0..WIDTH as i64).contains(&x) && (0..HEIGHT as i64).contains(&y) {
            let at = (y as usize * WIDTH + x as usize) * 3;
            for (pixel, c) in self.pixels[at..at + 3].iter_mut().zip(color) {
                *pixel = (f64::from(*pixel) + (f64::from(c) - f64::from(*pixel)) * cover).round() as u8;
            }
        }
    }

    /// A straight line with soft edges: a pixel is covered as far as its centre lies within half the width.
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

    /// A line through all points, broken at each `None`; a lone point is a dot.
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

    /// Mean row of the pixels of exactly this colour in a column.
    fn row_of(picture: &Picture, column: usize, color: Color) -> Option<f64> {
        let rows: Vec<usize> =
            (TOP..BOTTOM).filter(|y| picture.data()[(y * WIDTH + column) * 3..][..3] == color).collect();
        (!rows.is_empty()).then(|| rows.iter().sum::<usize>() as f64 / rows.len() as f64)
    }

    #[test]
    fn a_power_law_is_steep_at_first_and_equal_ratios_are_equal_heights() {
        // Straight in the logarithm: 10 falling to 0.1.
        let losses: Vec<_> = (0..=1000).map(|s| (s, 10f64.powf(1.0 - s as f64 / 500.0))).collect();
        let picture = loss_curve("loss", &losses).unwrap();
        let at = |x: f64| row_of(&picture, LEFT + (x * (RIGHT - LEFT) as f64) as usize, SMOOTH).unwrap();
        let (a, b, c) = (at(0.25), at(0.5), at(0.75));
        assert!(a < b && b < c);
        assert!(((b - a) - (c - b)).abs() <= 2.0, "{a} {b} {c}");
        // The curve's middle is loss 1, the middle of the plot; the running mean lags a little behind.
        assert!((b - (TOP + BOTTOM) as f64 / 2.0).abs() < 15.0, "{b}");
    }

    #[test]
    fn losses_without_a_logarithm_leave_a_gap() {
        let losses: Vec<_> = (0..100)
            .map(|s| (s, if (40..60).contains(&s) { [f64::NAN, 0.0][s as usize % 2] } else { 1.0 + s as f64 }))
            .collect();
        let picture = loss_curve("loss", &losses).unwrap();
        let middle = (LEFT + RIGHT) / 2;
        assert_eq!((row_of(&picture, middle, SMOOTH), row_of(&picture, middle, RAW)), (None, None));
        assert!(row_of(&picture, LEFT + 60, SMOOTH).is_some());
        for nothing in [&[][..], &[(1, f64::NAN)], &[(1, -1.0)]] {
            assert!(loss_curve("loss", nothing).is_err());
        }
        assert!(loss_curve("η", &[(7, 0.5)]).is_ok());
        assert!(loss_curve("flat", &[(0, 0.5), (u64::MAX, 0.5)]).is_ok());
        assert!(loss_curve("wide", &[(0, f64::MIN_POSITIVE), (1, f64::MAX)]).is_ok());
    }

    #[test]
    fn the_running_mean_begins_at_the_first_value_and_keeps_a_constant() {
        assert_eq!(running_mean(&[(0, 3.0), (1, f64::NAN)]), [Some((0, 3.0)), None]);
        let constant: Vec<_> = (0..500).map(|s| (s, 2.0)).collect();
        assert!(running_mean(&constant).iter().all(|p| (p.unwrap().1 - 2.0).abs() < 1e-12));
        // 100 points keep 1/2 of the past: (1/2·1 + 4)/(1/2 + 1) = 3.
        let mut two = vec![(0, 1.0), (1, 4.0)];
        two.resize(100, (2, f64::NAN));
        assert!((running_mean(&two)[1].unwrap().1 - 3.0).abs() < 1e-12);
    }

    #[test]
    #[ignore = "writes loss.png to the folder $SKIPSTONE_OUT for somebody to look at"]
    fn a_curve_to_look_at() {
        let folder = std::path::PathBuf::from(std::env::var_os("SKIPSTONE_OUT").expect("SKIPSTONE_OUT names a folder"));
        let loss = |s: u64| {
            let wave = (s as f64 * 12.9898).sin() * 43758.5453;
            (0.03 + 0.9 * (-(s as f64) / 700.0).exp()) * (1.0 + 0.5 * (wave - wave.floor() - 0.5))
        };
        let losses: Vec<_> = (1..=1200).map(|k| (k * 25, loss(k * 25))).collect();
        let picture = loss_curve("training loss", &losses).unwrap();
        crate::image::write_png(&folder.join("loss.png"), &picture, &[]).unwrap();
    }

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
    }
}
