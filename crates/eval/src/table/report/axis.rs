//! An axis of a drawing, and its tick marks.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::Ranged;

use super::super::row::Row;

/// The value of a row on an axis.
pub(super) type Value = fn(&Row) -> Option<f64>;

/// An axis.
pub(super) struct Axis {
    pub label: &'static str,
    pub value: Value,
    pub log: bool,
    /// Whether the marks are at the values themselves, as for numbers of steps.
    pub own_marks: bool,
}

/// The number of steps S.
pub(super) const STEPS: Axis = Axis { label: "S", value: |row| Some(row.steps as f64), log: true, own_marks: true };
/// The Fréchet distance.
pub(super) const FRECHET: Axis =
    Axis { label: "Fréchet distance", value: |row| Some(row.frechet), log: true, own_marks: false };

impl Axis {
    /// The place of a value, which is its logarithm on a logarithmic axis; `None` if it has none.
    pub fn place(&self, value: f64) -> Option<f64> {
        let place = if self.log { value.log10() } else { value };
        place.is_finite().then_some(place)
    }

    /// A range that holds these places, with room on both sides.
    pub fn marked(&self, places: &[f64]) -> Marked {
        let least = places.iter().copied().fold(f64::INFINITY, f64::min);
        let most = places.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let room = match (most - least, self.log) {
            (range, _) if range > 0.0 => 0.06 * range,
            (_, true) => 0.3,
            _ => 0.05,
        };
        // Values that cannot be negative get no room below 0.
        let from = if !self.log && least >= 0.0 { (least - room).max(0.0) } else { least - room };
        let range = from..most + room;
        let mut marks = if self.own_marks {
            places.to_vec()
        } else if self.log {
            log_marks(&range)
        } else {
            even_marks(&range)
        };
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        Marked { range, marks }
    }

    pub fn text(&self, place: f64) -> String {
        match (self.log, self.own_marks) {
            (true, true) => format!("{:.0}", 10f64.powf(place)),
            (true, false) => plain(10f64.powf(place)),
            (false, _) => plain(place),
        }
    }
}

/// A range of an axis, with marks at these places.
pub(super) struct Marked {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Ranged for Marked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        let share = (place - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// A number without trailing zeros.
fn plain(value: f64) -> String {
    let text = format!("{:.*}", (2 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 9) as usize, value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// 1, 2 and 5 in every decade; only 1 over many decades, every digit within one.
fn log_marks(range: &Range<f64>) -> Vec<f64> {
    let decades = range.end - range.start;
    let digits: &[f64] = match decades {
        d if d > 3.0 => &[1.0],
        d if d > 0.7 => &[1.0, 2.0, 5.0],
        _ => &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    };
    let (first, last) = (range.start.floor() as i32, range.end.ceil() as i32);
    let all = (first..=last).flat_map(|decade| digits.iter().map(move |digit| digit.log10() + f64::from(decade)));
    let marks: Vec<f64> = all.filter(|mark| range.contains(mark)).collect();
    if marks.len() > 1 {
        return marks;
    }
    // The range is so narrow that even marks are as good.
    let values = 10f64.powf(range.start)..10f64.powf(range.end);
    even_marks(&values).into_iter().map(f64::log10).filter(|mark| range.contains(mark)).collect()
}

/// Four to eight round values.
fn even_marks(range: &Range<f64>) -> Vec<f64> {
    let rough = (range.end - range.start) / 5.0;
    // Rounding has made the range empty, or it is infinite.
    if !(rough > 0.0 && rough.is_finite()) {
        return vec![range.start];
    }
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|d| d * decade).find(|step| *step >= rough).unwrap_or(rough);
    let first = (range.start / step).ceil() as i64;
    (0..20).map(|i| (first + i) as f64 * step).take_while(|mark| *mark <= range.end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_within_their_range() {
        let round = |marks: Vec<f64>| marks.into_iter().map(|m| plain(10f64.powf(m))).collect::<Vec<_>>();
        assert_eq!(round(log_marks(&(0.5..2.6))), ["5", "10", "20", "50", "100", "200"]);
        assert_eq!(round(log_marks(&(0.55..1.0))), ["4", "5", "6", "7", "8", "9"]);
        assert_eq!(round(log_marks(&(-2.2..2.0))), ["0.01", "0.1", "1", "10"]);
        assert_eq!(round(log_marks(&(0.0518f64.log10()..0.0536f64.log10()))), ["0.052", "0.0525", "0.053", "0.0535"]);
        assert_eq!(round(log_marks(&(5.15f64.log10()..5.85f64.log10()))), ["5.2", "5.4", "5.6", "5.8"]);
        assert_eq!(even_marks(&(1e20..1e20)), [1e20]);
        let even = |range| even_marks(&range).into_iter().map(plain).collect::<Vec<_>>();
        assert_eq!(even(0.0..1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(even(0.43..0.61), ["0.45", "0.5", "0.55", "0.6"]);
    }

    #[test]
    fn an_axis_has_room_even_for_a_single_value() {
        let Marked { range, marks } = STEPS.marked(&[1.0, 1.0]);
        assert!(range.start < 1.0 && range.end > 1.0);
        assert_eq!((marks.len(), STEPS.text(marks[0])), (1, "10".to_owned()));
        let recall = Axis { label: "recall", value: |row| row.recall, log: false, own_marks: false };
        let Marked { range, marks } = recall.marked(&[0.0]);
        assert!(range.start == 0.0 && range.end > 0.0 && !marks.is_empty());
    }
}
