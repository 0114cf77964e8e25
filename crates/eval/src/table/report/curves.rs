//! The curves of a section, as drawings inside the page.
//!
//! The drawings have the colours of a light page; [`dark_style`] replaces each on a dark page.

use plotters::prelude::*;
use skipstone::error::{Error, Result};

use super::super::row::Row;
use super::axis::{Axis, FRECHET, Marked, STEPS, Value};
use super::sections::{Line, Section};
use super::text::{Html, escaped};

/// Size of a drawing in units. plotters rounds to whole units, so [`SCALE`] of them make one pixel.
const SIZE: (u32, u32) = (460 * SCALE, 320 * SCALE);
const SCALE: u32 = 8;

/// Line colours on light and on dark pages. They differ for every kind of colour vision, and the markers differ too.
const COLORS: [(RGBColor, &str); 8] = [
    (RGBColor(0x0B, 0x62, 0xA4), "#6FB7F2"),
    (RGBColor(0xC4, 0x4E, 0x00), "#FF9C5B"),
    (RGBColor(0x00, 0x7A, 0x55), "#4FCFA0"),
    (RGBColor(0x9B, 0x2F, 0x86), "#EE96DC"),
    (RGBColor(0x80, 0x66, 0x00), "#E3C34F"),
    (RGBColor(0x4B, 0x4F, 0xBF), "#A9ADFF"),
    (RGBColor(0xB0, 0x1F, 0x3C), "#FF8A9E"),
    (RGBColor(0x1F, 0x6F, 0x78), "#77D4DF"),
];
const INK: (RGBColor, &str) = (RGBColor(0x3B, 0x40, 0x48), "#C3C9D2");
const GRID: (RGBColor, &str) = (RGBColor(0xDD, 0xE1, 0xE7), "#343A44");
const FLOOR: (RGBColor, &str) = (RGBColor(0x6B, 0x72, 0x7D), "#98A1AE");
const FRONT: (RGBColor, &str) = (RGBColor(0xD3, 0xDA, 0xE4), "#424A57");

/// Replaces the drawings' colours on a dark page.
pub(super) fn dark_style() -> String {
    let all = COLORS.iter().chain([&INK, &GRID, &FLOOR, &FRONT]);
    let rules: Vec<String> = all
        .map(|(light, dark)| {
            let light = hex(*light);
            format!(".plot [stroke=\"{light}\"]{{stroke:{dark}}}.plot [fill=\"{light}\"]{{fill:{dark}}}")
        })
        .collect();
    format!("@media (prefers-color-scheme: dark) {{\n{}\n}}\n", rules.join("\n"))
}

fn hex(color: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}

/// The key of line `i` for the legend: the line with its marker.
pub(super) fn key(i: usize) -> String {
    let color = hex(COLORS[i % COLORS.len()].0);
    let shape = match marker(i) {
        None => format!("<circle cx=\"14\" cy=\"8\" r=\"{RADIUS}\" fill=\"{color}\"/>"),
        Some(corners) => {
            let points = corners.iter().map(|(x, y)| format!("{},{}", 14.0 + x, 8.0 + y));
            format!("<polygon points=\"{}\" fill=\"{color}\"/>", points.collect::<Vec<_>>().join(" "))
        }
    };
    line_key(&color, "", &shape)
}

/// The key of the floor.
pub(super) fn floor_key() -> String {
    line_key(&hex(FLOOR.0), " stroke-dasharray=\"5 4\"", "")
}

fn line_key(color: &str, dashes: &str, shape: &str) -> String {
    format!(
        "<svg class=\"plot key\" viewBox=\"0 0 28 16\" aria-hidden=\"true\"><line x1=\"1\" y1=\"8\" x2=\"27\" y2=\"8\" \
         stroke=\"{color}\" stroke-width=\"2\"{dashes}/>{shape}</svg>"
    )
}

/// Radius of a disc that marks a point, in pixels.
const RADIUS: f64 = 4.5;

/// The corners of the marker of line `i`, in pixels from the point; `None` for a disc. Lines with the same colour have
/// different markers.
fn marker(i: usize) -> Option<&'static [(f64, f64)]> {
    const SQUARE: &[(f64, f64)] = &[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)];
    const TRIANGLE: &[(f64, f64)] = &[(0.0, -5.0), (5.0, 4.0), (-5.0, 4.0)];
    const DIAMOND: &[(f64, f64)] = &[(0.0, -5.5), (5.5, 0.0), (0.0, 5.5), (-5.5, 0.0)];
    [None, Some(SQUARE), Some(TRIANGLE), Some(DIAMOND)][(i + i / COLORS.len()) % 4]
}

/// One drawing.
struct Chart {
    title: &'static str,
    about: &'static str,
    x: Axis,
    y: Axis,
    /// The value of real images on the vertical axis.
    floor: Option<Value>,
    /// Whether to join the cells that no other cell beats on both axes.
    front: bool,
}

fn all() -> [Chart; 4] {
    let frechet_floor: Option<Value> = Some(|row| Some(row.frechet_floor));
    let recall = Axis { label: "recall", value: |row| row.recall, log: false, own_marks: false };
    let variance = Axis { label: "latent variance", value: |row| row.latent_variance, log: false, own_marks: false };
    let time =
        Axis { label: "seconds per image", value: |row| Some(row.seconds / row.n as f64), log: true, own_marks: false };
    let chart = |title, about, x, y, floor, front| Chart { title, about, x, y, floor, front };
    [
        chart(
            "Quality against steps",
            "Fréchet distance over S; the dashed line is the floor.",
            STEPS,
            FRECHET,
            frechet_floor,
            false,
        ),
        chart(
            "Quality against time",
            "Fréchet distance over seconds per image; the band joins the cells that no other cell beats in both.",
            time,
            FRECHET,
            frechet_floor,
            true,
        ),
        chart(
            "Variety against steps",
            "Recall over S; the dashed line is the recall of test images.",
            STEPS,
            recall,
            Some(|row| row.recall_test),
            false,
        ),
        chart(
            "What the latent leaves open",
            "Share of the variance between samples of one latent, over S.",
            STEPS,
            variance,
            None,
            false,
        ),
    ]
}

/// Draws the curves of a section, leaving out those without a value.
pub(super) fn charts(page: &mut Html, section: &Section<'_>) -> Result<()> {
    for chart in all() {
        let lines: Vec<Vec<(f64, f64)>> = section.lines.iter().map(|line| chart.points(line)).collect();
        if lines.iter().all(Vec::is_empty) {
            continue;
        }
        let drawing = chart.draw(section, &lines).map_err(|e| Error::data(format!("{}: {e}", chart.title)))?;
        page.raw("<figure class=\"chart\">");
        page.element("figcaption", "", chart.title);
        page.raw(&labelled(&drawing, &chart, section));
        page.element("p", "", chart.about);
        page.raw("</figure>\n");
    }
    Ok(())
}

/// The drawing with a label for screen readers and without a fixed size.
fn labelled(drawing: &str, chart: &Chart, section: &Section<'_>) -> String {
    let names: Vec<&str> = section.lines.iter().map(|line| line.label.as_str()).collect();
    let name = format!("{}: {} The numbers are in the tables. Lines: {}.", chart.title, chart.about, names.join("; "));
    let (width, height) = SIZE;
    let sized = format!("<svg width=\"{width}\" height=\"{height}\"");
    let named = format!("<svg class=\"plot\" role=\"img\" aria-label=\"{}\"", escaped(&name));
    drawing.replacen(&sized, &named, 1)
}

impl Chart {
    /// The points of a line, in order of S.
    fn points(&self, line: &Line<'_>) -> Vec<(f64, f64)> {
        let place = |row: &Row| Some((self.x.place((self.x.value)(row)?)?, self.y.place((self.y.value)(row)?)?));
        line.cells.values().filter_map(|row| place(row)).collect()
    }

    fn draw(
        &self,
        section: &Section<'_>,
        lines: &[Vec<(f64, f64)>],
    ) -> std::result::Result<String, Box<dyn std::error::Error>> {
        let floor = self.floor.and_then(|floor| self.y.place(floor(section.first())?));
        let points: Vec<(f64, f64)> = lines.iter().flatten().copied().collect();
        let xs: Vec<f64> = points.iter().map(|point| point.0).collect();
        let ys: Vec<f64> = points.iter().map(|point| point.1).chain(floor).collect();
        let (x, y) = (self.x.marked(&xs), self.y.marked(&ys));
        let x_range = x.range();
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            let unit = SCALE as i32;
            let font = |size: i32| ("sans-serif", f64::from(size * unit) * 1.24).into_font().color(&INK.0);
            let mut chart = ChartBuilder::on(&area)
                .margin(6 * unit)
                .margin_right(14 * unit)
                .x_label_area_size(42 * unit)
                .y_label_area_size(54 * unit)
                .build_cartesian_2d(x, y)?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(GRID.0.stroke_width(unit as u32))
                .axis_style(INK.0.stroke_width(unit as u32))
                .label_style(font(13))
                .axis_desc_style(font(13))
                .x_desc(self.x.label)
                .y_desc(self.y.label)
                .x_label_formatter(&|place| self.x.text(*place))
                .y_label_formatter(&|place| self.y.text(*place))
                .set_all_tick_mark_size(4 * unit)
                .draw()?;
            if self.front {
                chart.draw_series(LineSeries::new(front(&points), FRONT.0.stroke_width(9 * unit as u32)))?;
            }
            if let Some(floor) = floor {
                let ends = [(x_range.start, floor), (x_range.end, floor)];
                let style = FLOOR.0.stroke_width(2 * unit as u32);
                chart.draw_series(DashedLineSeries::new(ends, 6 * unit as u32, 5 * unit as u32, style))?;
            }
            for (i, points) in lines.iter().enumerate() {
                let color = COLORS[i % COLORS.len()].0;
                chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2 * unit as u32)))?;
                for &point in points {
                    mark(&mut chart, point, marker(i), color)?;
                }
            }
            area.present()?;
        }
        Ok(text)
    }
}

fn mark(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<Marked, Marked>>,
    point: (f64, f64),
    marker: Option<&[(f64, f64)]>,
    color: RGBColor,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let style = color.filled();
    let units = |pixels: f64| (pixels * f64::from(SCALE)) as i32;
    match marker {
        None => chart.draw_series([Circle::new(point, units(RADIUS), style)]).map(drop)?,
        Some(corners) => {
            let corners: Vec<_> = corners.iter().map(|&(x, y)| (units(x), units(y))).collect();
            chart.draw_series([EmptyElement::at(point) + Polygon::new(corners, style)]).map(drop)?;
        }
    }
    Ok(())
}

/// The points with no other point below and to the left, from left to right.
fn front(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut front: Vec<(f64, f64)> = Vec::new();
    for point in sorted {
        if front.last().is_none_or(|last| point.1 < last.1) {
            front.push(point);
        }
    }
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_holds_the_points_that_nothing_beats_on_both_axes() {
        let points = [(1.0, 9.0), (2.0, 5.0), (2.0, 4.0), (3.0, 6.0), (4.0, 4.0), (5.0, 1.0)];
        assert_eq!(front(&points), [(1.0, 9.0), (2.0, 4.0), (5.0, 1.0)]);
        assert_eq!(front(&[]), []);
    }
}
