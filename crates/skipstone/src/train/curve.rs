//! The loss curve of a training run as a picture, with a logarithmic loss axis over steps.

use crate::error::{Error, Result};
use crate::io::image::Picture;
use crate::io::image::plot::{AxisStyle, Chart, Color, Curve, Scale};

const RAW: Color = [176, 203, 232];
const SMOOTH: Color = [20, 90, 170];

/// Draws `losses`, (step, loss) pairs in increasing steps: the values as a light line, their running mean as a dark
/// one.
///
/// The running mean is exponential, over about a fiftieth of the points. Losses that are not finite and positive leave
/// a gap, because they have no position on a logarithmic axis.
///
/// ```
/// let losses: Vec<(u64, f64)> = (1..100).map(|step| (step, 1.0 / step as f64)).collect();
/// let picture = skipstone::train::curve::loss_curve("training loss", &losses).unwrap();
/// assert_eq!(picture.channels(), 3);
/// ```
///
/// # Errors
/// No loss can be drawn.
pub fn loss_curve(title: &str, losses: &[(u64, f64)]) -> Result<Picture> {
    if !losses.iter().any(|&(_, loss)| drawable(loss)) {
        return Err(Error::argument(format!("none of the {} losses is finite and positive", losses.len())));
    }
    // A NaN point leaves a gap.
    let smooth = running_mean(losses).into_iter().map(|p| p.map_or([f64::NAN; 2], point));
    let curves = [
        Curve { points: losses.iter().copied().map(point).collect(), color: RAW, width: 1.0, dots: false },
        Curve { points: smooth.collect(), color: SMOOTH, width: 3.0, dots: false },
    ];
    draw(title, ["step", "loss"], &curves)
}

/// Draws positive values over whole numbers without smoothing, with `labels` for the two axes.
///
/// # Errors
/// No point can be drawn.
pub fn labelled_curve(title: &str, labels: [&str; 2], points: &[(u64, f64)]) -> Result<Picture> {
    let points = points.iter().copied().map(point).collect();
    draw(title, labels, &[Curve { points, color: SMOOTH, width: 2.0, dots: false }])
}

fn draw(title: &str, [across, up]: [&str; 2], curves: &[Curve]) -> Result<Picture> {
    let x = AxisStyle { label: across, scale: Scale::Linear, margin: 0.0 };
    let y = AxisStyle { label: up, scale: Scale::Log, margin: 0.04 };
    Chart { title, x, y, curves }.draw()
}

fn point((step, value): (u64, f64)) -> [f64; 2] {
    [step as f64, value]
}

fn drawable(loss: f64) -> bool {
    loss.is_finite() && loss > 0.0
}

/// The exponential mean up to each point, corrected for the bias of its start. `None` where the loss leaves a gap.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::image::plot::{BOTTOM, LEFT, RIGHT, TOP, WIDTH};

    /// The mean row of the pixels of exactly this colour in a column.
    fn row_of(picture: &Picture, column: usize, color: Color) -> Option<f64> {
        let rows: Vec<usize> =
            (TOP..BOTTOM).filter(|y| picture.data()[(y * WIDTH + column) * 3..][..3] == color).collect();
        (!rows.is_empty()).then(|| rows.iter().sum::<usize>() as f64 / rows.len() as f64)
    }

    #[test]
    fn a_power_law_is_steep_at_first_and_equal_ratios_are_equal_heights() {
        // Straight on a logarithmic axis: 10 falling to 0.1.
        let losses: Vec<_> = (0..=1000).map(|s| (s, 10f64.powf(1.0 - s as f64 / 500.0))).collect();
        let picture = loss_curve("loss", &losses).unwrap();
        let at = |x: f64| row_of(&picture, LEFT + (x * (RIGHT - LEFT) as f64) as usize, SMOOTH).unwrap();
        let (a, b, c) = (at(0.25), at(0.5), at(0.75));
        assert!(a < b && b < c);
        assert!(((b - a) - (c - b)).abs() <= 2.0, "{a} {b} {c}");
        // The middle of the curve is loss 1, the middle of the plot; the running mean lags slightly.
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
    fn a_labelled_curve_goes_through_its_points_as_they_are() {
        // Alternating 1 and 100: a running mean would stay between them.
        let points: Vec<_> = (0..=10).map(|s| (s, if s % 2 == 0 { 1.0 } else { 100.0 })).collect();
        let picture = labelled_curve("bits", ["t", "bits"], &points).unwrap();
        let at = |s: usize| row_of(&picture, LEFT + s * (RIGHT - LEFT) / 10, SMOOTH).unwrap();
        assert!(at(5) < TOP as f64 + 40.0 && at(4) > BOTTOM as f64 - 40.0, "{} {}", at(5), at(4));
        assert!(labelled_curve("bits", ["t", "bits"], &[(1, 0.0)]).is_err());
    }

    #[test]
    fn the_running_mean_begins_at_the_first_value_and_keeps_a_constant() {
        assert_eq!(running_mean(&[(0, 3.0), (1, f64::NAN)]), [Some((0, 3.0)), None]);
        let constant: Vec<_> = (0..500).map(|s| (s, 2.0)).collect();
        assert!(running_mean(&constant).iter().all(|p| (p.unwrap().1 - 2.0).abs() < 1e-12));
        // With 100 points, half of the past is kept: (1/2·1 + 4)/(1/2 + 1) = 3.
        let mut two = vec![(0, 1.0), (1, 4.0)];
        two.resize(100, (2, f64::NAN));
        assert!((running_mean(&two)[1].unwrap().1 - 3.0).abs() < 1e-12);
    }

    #[test]
    #[ignore = "writes loss.png to the folder $SKIPSTONE_OUT for inspection"]
    fn a_curve_to_look_at() {
        let folder = std::path::PathBuf::from(std::env::var_os("SKIPSTONE_OUT").expect("SKIPSTONE_OUT names a folder"));
        let loss = |s: u64| {
            let wave = (s as f64 * 12.9898).sin() * 43758.5453;
            (0.03 + 0.9 * (-(s as f64) / 700.0).exp()) * (1.0 + 0.5 * (wave - wave.floor() - 0.5))
        };
        let losses: Vec<_> = (1..=1200).map(|k| (k * 25, loss(k * 25))).collect();
        let picture = loss_curve("training loss", &losses).unwrap();
        crate::io::image::write_png(&folder.join("loss.png"), &picture, &[]).unwrap();
    }
}
