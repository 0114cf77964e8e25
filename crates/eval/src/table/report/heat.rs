//! Tables with shaded cells: the stronger the shade, the better the value.

use super::super::row::Row;
use super::sections::Section;
use super::text::{Html, distance, escaped, uncertain};

/// A value of a row, if it has one.
type Value<T> = fn(&Row) -> Option<T>;

/// What a table shows.
struct Metric {
    title: &'static str,
    about: &'static str,
    shade: Shade,
    value: Value<f64>,
    text: Value<String>,
    /// The text for real images.
    real: Value<String>,
}

/// How a value becomes a shade.
enum Shade {
    /// The least is best; equal ratios get equal shades.
    LogLess,
    /// The least is best.
    Less,
    /// The largest is best.
    More,
    /// There is no best.
    None,
}

const fn metric(
    title: &'static str,
    about: &'static str,
    shade: Shade,
    value: Value<f64>,
    [text, real]: [Value<String>; 2],
) -> Metric {
    Metric { title, about, shade, value, text, real }
}

fn two_digits(value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{value:.2}"))
}

const METRICS: [Metric; 8] = [
    metric(
        "Fréchet distance",
        "less is better",
        Shade::LogLess,
        |row| Some(row.frechet),
        [|row| Some(distance(row.frechet)), |row| Some(distance(row.frechet_floor))],
    ),
    metric(
        "KID × 1000",
        "less is better",
        Shade::Less,
        |row| row.kid,
        [
            |row| Some(uncertain(1000.0 * row.kid?, 1000.0 * row.kid_error?)),
            |row| row.kid_floor.map(|kid| distance(1000.0 * kid)),
        ],
    ),
    metric(
        "Precision",
        "share of the samples that look real; more is better",
        Shade::More,
        |row| row.precision,
        [|row| two_digits(row.precision), |row| two_digits(row.precision_test)],
    ),
    metric(
        "Recall",
        "share of the data that the samples cover; more is better",
        Shade::More,
        |row| row.recall,
        [|row| two_digits(row.recall), |row| two_digits(row.recall_test)],
    ),
    metric(
        "Memorisation",
        "distance to the nearest training image, relative to test images; well below 1 means copies or blur",
        Shade::None,
        |row| row.memorisation,
        [|row| two_digits(row.memorisation), |row| row.memorisation.map(|_| "1".to_owned())],
    ),
    metric(
        "Latent variance",
        "share of the variance that the latent does not decide",
        Shade::None,
        |row| row.latent_variance,
        [|row| two_digits(row.latent_variance), |_| None],
    ),
    metric(
        "Consistency",
        "distance from the images of the same latents with the most steps (that S in brackets); less is closer",
        Shade::Less,
        |row| row.coarse_rms,
        [|row| Some(format!("{:.3} ({})", row.coarse_rms?, row.against?)), |_| None],
    ),
    metric(
        "Milliseconds per image",
        "as measured while drawing",
        Shade::LogLess,
        |row| Some(row.seconds / row.n as f64),
        [|row| Some(distance(1000.0 * row.seconds / row.n as f64)), |_| None],
    ),
];

/// All tables of a section. The Fréchet distance comes first and large.
pub(super) fn tables(page: &mut Html, section: &Section<'_>) {
    for (i, metric) in METRICS.iter().enumerate() {
        if i == 1 {
            page.raw("<div class=\"tables\">\n");
        }
        if section.rows().any(|(_, row)| (metric.value)(row).is_some()) {
            table(page, section, metric, i == 0);
        }
    }
    page.raw("</div>\n");
}

fn table(page: &mut Html, section: &Section<'_>, metric: &Metric, large: bool) {
    let class = if large { "heat large" } else { "heat" };
    page.raw("<div class=\"scroll\">\n");
    page.raw(&format!("<table class=\"{class}\">\n<caption><strong>{}</strong> ", escaped(metric.title)));
    page.raw(&format!("<span>{}</span></caption>\n<thead>\n<tr><td>S =</td>", escaped(metric.about)));
    for steps in &section.steps {
        page.raw(&format!("<th scope=\"col\">{steps}</th>"));
    }
    page.raw("</tr>\n</thead>\n<tbody>\n");
    let shades = Shades::new(section, metric);
    for line in &section.lines {
        page.raw(&format!("<tr><th scope=\"row\">{}</th>", escaped(&line.label)));
        for steps in &section.steps {
            let Some((row, text)) = line.cells.get(steps).and_then(|row| Some((row, (metric.text)(row)?))) else {
                page.raw("<td class=\"none\"><span aria-label=\"not measured\">–</span></td>");
                continue;
            };
            let (shade, is_best) = shades.of((metric.value)(row));
            let best = if is_best { " class=\"best\"" } else { "" };
            // A standard error, and the S compared with, are printed small below the value.
            let text = match (text.split_once(" ± "), text.split_once(" (")) {
                (Some((value, error)), _) => format!("{} <small>± {}</small>", escaped(value), escaped(error)),
                (_, Some((value, to))) => format!("{} <small>({}</small>", escaped(value), escaped(to)),
                _ => escaped(&text),
            };
            page.raw(&format!("<td{best} style=\"--q:{shade:.2}\">{text}</td>"));
        }
        page.raw("</tr>\n");
    }
    page.raw("</tbody>\n");
    if let Some(real) = (metric.real)(section.first()) {
        let (columns, real) = (section.steps.len(), escaped(&real));
        page.raw(&format!(
            "<tfoot>\n<tr><th scope=\"row\">real images</th><td colspan=\"{columns}\">{real}</td></tr>\n</tfoot>\n"
        ));
    }
    page.raw("</table>\n</div>\n");
}

/// The range of a table's values.
struct Shades<'m> {
    metric: &'m Metric,
    worst: f64,
    best: f64,
    /// Whether several cells are best.
    ties: bool,
}

impl<'m> Shades<'m> {
    fn new(section: &Section<'_>, metric: &'m Metric) -> Self {
        let goods: Vec<f64> = section.rows().filter_map(|(_, row)| goodness(metric, (metric.value)(row)?)).collect();
        let worst = goods.iter().copied().fold(f64::INFINITY, f64::min);
        let best = goods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let ties = goods.iter().filter(|good| **good == best).count() > 1;
        Self { metric, worst, best, ties }
    }

    /// The shade, from 0 for the worst value to 1 for the best, and whether this value alone is best.
    fn of(&self, value: Option<f64>) -> (f64, bool) {
        let range = self.best - self.worst;
        match value.and_then(|value| goodness(self.metric, value)) {
            Some(good) => {
                (if range > 0.0 { (good - self.worst) / range } else { 0.0 }, !self.ties && good == self.best)
            }
            None => (0.0, false),
        }
    }
}

/// The larger, the better; `None` if no value is better than another.
fn goodness(metric: &Metric, value: f64) -> Option<f64> {
    let good = match metric.shade {
        Shade::LogLess => -value.max(f64::MIN_POSITIVE).ln(),
        Shade::Less => -value,
        Shade::More => value,
        Shade::None => return None,
    };
    good.is_finite().then_some(good)
}
