//! Tables whose cells are shaded: the stronger, the better.

use super::super::row::Row;
use super::sections::Section;
use super::text::{Html, distance, escaped, uncertain};

/// What one table shows.
struct Metric {
    title: &'static str,
    /// What its best is.
    about: &'static str,
    value: fn(&Row) -> Option<f64>,
    text: fn(&Row) -> Option<String>,
    /// What real images have.
    real: fn(&Row) -> Option<String>,
    scale: Shade,
}

/// How a value becomes a shade.
enum Shade {
    /// The least is best; equal ratios are equal shades.
    LogLess,
    /// The least is best.
    Less,
    /// The largest is best.
    More,
    /// There is no best.
    None,
}

const METRICS: [Metric; 8] = [
    Metric {
        title: "Fréchet distance",
        about: "less is better",
        value: |row| Some(row.frechet),
        text: |row| Some(distance(row.frechet)),
        real: |row| Some(distance(row.frechet_floor)),
        scale: Shade::LogLess,
    },
    Metric {
        title: "KID × 1000",
        about: "less is better",
        value: |row| row.kid,
        text: |row| Some(uncertain(1000.0 * row.kid?, 1000.0 * row.kid_error?)),
        real: |row| row.kid_floor.map(|kid| distance(1000.0 * kid)),
        scale: Shade::Less,
    },
    Metric {
        title: "Precision",
        about: "how many samples look real; more is better",
        value: |row| row.precision,
        text: |row| row.precision.map(|share| format!("{share:.2}")),
        real: |row| row.precision_test.map(|share| format!("{share:.2}")),
        scale: Shade::More,
    },
    Metric {
        title: "Recall",
        about: "how much of the data the samples cover; more is better",
        value: |row| row.recall,
        text: |row| row.recall.map(|share| format!("{share:.2}")),
        real: |row| row.recall_test.map(|share| format!("{share:.2}")),
        scale: Shade::More,
    },
    Metric {
        title: "Memorisation",
        about: "distance to the nearest training image, in that of test images; well below 1 is copying, or blur",
        value: |row| row.memorisation,
        text: |row| row.memorisation.map(|ratio| format!("{ratio:.2}")),
        real: |row| row.memorisation.map(|_| "1".to_owned()),
        scale: Shade::None,
    },
    Metric {
        title: "Latent variance",
        about: "the share of the variance that the latent does not decide",
        value: |row| row.latent_variance,
        text: |row| row.latent_variance.map(|share| format!("{share:.2}")),
        real: |_| None,
        scale: Shade::None,
    },
    Metric {
        title: "Consistency",
        about: "how far the same latents are from where most steps lead (that S below); less is nearer",
        value: |row| row.coarse_rms,
        text: |row| Some(format!("{:.3} ({})", row.coarse_rms?, row.against?)),
        real: |_| None,
        scale: Shade::Less,
    },
    Metric {
        title: "Milliseconds an image",
        about: "as it was drawn",
        value: |row| Some(row.seconds / row.n as f64),
        text: |row| Some(distance(1000.0 * row.seconds / row.n as f64)),
        real: |_| None,
        scale: Shade::LogLess,
    },
];

/// All tables of a section, the Fréchet distance first and large.
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
            let shade = shades.of((metric.value)(row));
            let best = if shades.is_best((metric.value)(row)) { " class=\"best\"" } else { "" };
            // A standard error, and what a distance is to, stand smaller below the value.
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
            "<tfoot>\n<tr><th scope=\"row\">real images</th><td colspan=\"{columns}\">{real}</td></tr>\n"
        ));
        page.raw("</tfoot>\n");
    }
    page.raw("</table>\n</div>\n");
}

/// The range of a table's values, as what is shaded.
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

    /// 0 for the worst, 1 for the best.
    fn of(&self, value: Option<f64>) -> f64 {
        let range = self.best - self.worst;
        match value.and_then(|value| goodness(self.metric, value)) {
            Some(good) if range > 0.0 => (good - self.worst) / range,
            _ => 0.0,
        }
    }

    fn is_best(&self, value: Option<f64>) -> bool {
        !self.ties && value.and_then(|value| goodness(self.metric, value)) == Some(self.best)
    }
}

/// The larger, the better; `None` where nothing is.
fn goodness(metric: &Metric, value: f64) -> Option<f64> {
    let good = match metric.scale {
        Shade::LogLess => -value.max(f64::MIN_POSITIVE).ln(),
        Shade::Less => -value,
        Shade::More => value,
        Shade::None => return None,
    };
    good.is_finite().then_some(good)
}
