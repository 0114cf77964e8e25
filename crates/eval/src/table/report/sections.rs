//! Rows in order: a section for comparable rows, a line for each way of sampling, a column for each S.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use skipstone::io::image::shown_channels;
use skipstone::sampling::generate::stated;
use skipstone::sampling::options::Noise;

use super::super::row::{Row, are_few};
use super::text::{counted, grouped, short};

/// Comparable rows: with the same data, features and number of images.
pub(super) struct Section<'a> {
    /// In order of their first row.
    pub lines: Vec<Line<'a>>,
    /// Every S of some line.
    pub steps: Vec<usize>,
    /// The attributes that all rows share, by name.
    constant: Vec<(String, String)>,
}

/// One way of sampling, over S.
pub(super) struct Line<'a> {
    /// The attributes that distinguish it from the other lines.
    pub label: String,
    /// By S. Consistency is removed if it was measured against fewer steps than the line has.
    pub cells: BTreeMap<usize, Cow<'a, Row>>,
}

/// Options that few runs have.
const RARE: [&str; 6] = ["restart", "class", "guidance", "guidance_interval", "guide", "precision"];
/// Options that are shown elsewhere, or repeat another.
const PLACED: [&str; 9] = ["steps", "times", "eta", "sigma", "spacing", "solver", "clip", "model", "seed"];

/// Other options with more than one value among these rows. Without them, two rows would share a line.
fn further(rows: &[&Row]) -> Vec<String> {
    let mut stated: BTreeMap<&String, BTreeSet<String>> = BTreeMap::new();
    for (name, value) in rows.iter().flat_map(|row| &row.options).filter(|(_, value)| !value.is_null()) {
        stated.entry(name).or_default().insert(value.to_string());
    }
    let known = |name: &str| RARE.contains(&name) || PLACED.contains(&name);
    stated.into_iter().filter(|(name, values)| values.len() > 1 && !known(name)).map(|(name, _)| name.clone()).collect()
}

/// The attributes that distinguish lines, most telling first. `further` names options.
fn attributes(row: &Row, further: &[String]) -> Vec<(String, String)> {
    let noise = match &row.eta {
        Noise::Eta(eta) => format!("η = {eta}"),
        Noise::Hat => "σ̂".to_owned(),
        Noise::Learned => "learned variance".to_owned(),
        Noise::Analytic { eta: 1.0 } => "analytic variance".to_owned(),
        Noise::Analytic { eta } => format!("analytic variance over η = {eta}"),
        Noise::Vector(_) => "σ by a list".to_owned(),
    };
    let all = [
        ("noise", noise),
        ("solver", row.solver.clone()),
        ("times", row.spacing.clone()),
        ("clipping", row.clip.clone()),
        ("weights", row.weights.clone()),
        ("model", short(&row.model)),
        ("seed", row.seed.to_string()),
        ("first image", row.first.to_string()),
    ];
    let digest = |text: String| {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) { short(&text) } else { text }
    };
    let rare = RARE.into_iter().chain(further.iter().map(String::as_str));
    let rare = rare.map(|name| (name.to_owned(), stated(&row.options, name).map_or("none".to_owned(), digest)));
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(rare).collect()
}

/// The rows of each section.
pub(super) fn sections(rows: &[Row]) -> Vec<Section<'_>> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    let key = |row: &Row| (row.data_digest.clone(), row.features.clone(), row.n);
    for row in rows {
        match groups.iter_mut().find(|group| key(group[0]) == key(row)) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups.iter().map(|group| section(group)).collect()
}

fn section<'a>(rows: &[&'a Row]) -> Section<'a> {
    let further = further(rows);
    let all: Vec<_> = rows.iter().map(|row| attributes(row, &further)).collect();
    let differs = |i: usize| all.iter().any(|attributes| attributes[i] != all[0][i]);
    let constant: Vec<_> = (0..all[0].len()).filter(|&i| i > 0 && !differs(i)).map(|i| all[0][i].clone()).collect();
    // Moving average and raw weights of a training are two models, but "weights" is enough to distinguish them.
    let kinds = |of: &dyn Fn(&Row) -> String| rows.iter().map(|row| of(row)).collect::<BTreeSet<_>>().len();
    let by_weights = kinds(&|row| row.weights.clone()) == kinds(&|row| format!("{} {}", row.weights, row.model));
    let varies = |i: usize| differs(i) && !(by_weights && all[0][i].0 == "model");
    let mut lines: Vec<(&Vec<(String, String)>, Line<'a>)> = Vec::new();
    for (row, attributes) in rows.iter().zip(&all) {
        let found = lines.iter_mut().find(|(known, _)| *known == attributes);
        let line = match found {
            Some((_, line)) => line,
            None => {
                let label = label(attributes, &varies);
                lines.push((attributes, Line { label, cells: BTreeMap::new() }));
                &mut lines.last_mut().expect("just added").1
            }
        };
        line.cells.insert(row.steps, Cow::Borrowed(*row));
    }
    for (_, line) in &mut lines {
        let most = line.cells.keys().next_back().copied();
        for row in line.cells.values_mut().filter(|row| row.against.is_some() && row.against < most) {
            let row = row.to_mut();
            (row.coarse_rms, row.rms, row.against) = (None, None, None);
        }
    }
    let mut steps: Vec<usize> = rows.iter().map(|row| row.steps).collect();
    steps.sort_unstable();
    steps.dedup();
    Section { lines: lines.into_iter().map(|(_, line)| line).collect(), steps, constant }
}

/// The noise, and every other attribute that varies.
fn label(attributes: &[(String, String)], varies: &dyn Fn(usize) -> bool) -> String {
    let mut words = Vec::new();
    for (i, (name, value)) in attributes.iter().enumerate() {
        match name.as_str() {
            "noise" => words.push(value.clone()),
            "solver" | "times" if varies(i) => words.push(value.clone()),
            _ if varies(i) => words.push(said(name, value)),
            _ => {}
        }
    }
    words.join(", ")
}

/// An attribute in words.
fn said(name: &str, value: &str) -> String {
    format!("{} {value}", name.replace('_', " "))
}

impl<'a> Section<'a> {
    /// Any of its rows.
    pub fn first(&self) -> &Row {
        self.rows().next().expect("a section has a row").1
    }

    /// Every row with its line, line by line.
    pub fn rows(&self) -> impl Iterator<Item = (&Line<'a>, &Row)> {
        self.lines.iter().flat_map(|line| line.cells.values().map(move |row| (line, &**row)))
    }

    /// The row with the least Fréchet distance.
    pub fn best(&self) -> Option<(&Line<'a>, &Row)> {
        self.rows().min_by(|(_, a), (_, b)| a.frechet.total_cmp(&b.frechet))
    }

    /// The row with the fewest calls among those of at most this distance.
    pub fn cheapest_near(&self, frechet: f64) -> Option<(&Line<'a>, &Row)> {
        self.rows().filter(|(_, row)| row.frechet <= frechet).min_by_key(|(_, row)| row.calls)
    }

    /// A sentence about the attributes that all lines share.
    pub fn constant_text(&self) -> String {
        let said: Vec<String> = self
            .constant
            .iter()
            .filter(|(name, value)| !(RARE.contains(&name.as_str()) && value == "none") && name != "first image")
            .map(|(name, value)| said(name, value))
            .collect();
        if said.is_empty() { String::new() } else { format!("The same for all: {}.", said.join(", ")) }
    }

    /// Names and values of everything that the numbers depend on.
    pub fn provenance(&self) -> Vec<(String, String)> {
        let row = self.first();
        let every = |of: &dyn Fn(&Row) -> Vec<String>| {
            let mut all: Vec<String> = self.rows().flat_map(|(_, row)| of(row)).collect();
            all.sort();
            all.dedup();
            all.join("; ")
        };
        let split = if row.halves { "halves of one set of images" } else { "its own training and test part" };
        let mut all = vec![
            ("Model".to_owned(), every(&|row| vec![row.model.clone()])),
            ("Weights".to_owned(), every(&|row| vec![row.weights.clone()])),
            ("Features".to_owned(), row.features.clone()),
            ("Data".to_owned(), format!("{} ({split})", row.data)),
            (
                "Scored against".to_owned(),
                format!("{}; the floor: {}", counted(row.train, "training image"), floor_images(row)),
            ),
            ("Images of the data, SHA-256".to_owned(), row.data_digest.clone()),
            ("Size of an image".to_owned(), every(&|row| vec![sized(row)])),
            ("Arithmetic".to_owned(), every(&|row| vec![row.arithmetic.clone()])),
            ("Samples".to_owned(), format!("{} per cell, 8 bits per value, as in image files", grouped(row.n))),
            ("Noise".to_owned(), format!("seed {}", every(&|row| vec![row.seed.to_string()]))),
            ("Drawn on".to_owned(), every(&|row| row.machines.iter().map(|machine| in_words(machine)).collect())),
            ("Scored by".to_owned(), every(&|row| vec![row.program.clone()])),
        ];
        if are_few(row.n.min(row.train as u64), row.dimensions) {
            let few =
                format!("few for {} features: with more images the Fréchet distance would be lower", row.dimensions);
            all.push(("Number of images".to_owned(), few));
        }
        let repeats = every(&|row| row.repeats.iter().cloned().collect());
        if !repeats.is_empty() {
            all.push(("Latent variance".to_owned(), format!("{repeats} (latents x draws)")));
        }
        all
    }
}

/// The images behind the floor.
pub(super) fn floor_images(row: &Row) -> String {
    if row.halves {
        format!("{} of the other half of the data", counted(row.floor_n, "image"))
    } else {
        counted(row.floor_n, "test image")
    }
}

/// A machine as the files name it, which say "1 threads".
fn in_words(machine: &str) -> String {
    machine.strip_prefix("1 threads").map_or_else(|| machine.to_owned(), |rest| format!("1 thread{rest}"))
}

/// The size of the images, and the data set's size before resizing.
fn sized(row: &Row) -> String {
    let resized = row.resized_from.as_ref().map(|from| format!("; the data were cropped and resized from {from}"));
    let channels = row.size.split('x').next().and_then(|channels| channels.parse().ok()).unwrap_or(1);
    let shown = shown_channels(channels);
    let partly = (shown < channels).then(|| format!("; the pictures show the first {shown} of {channels} channels"));
    let (resized, partly) = (resized.unwrap_or_default(), partly.unwrap_or_default());
    format!("{} (channels, height, width){resized}{partly}", row.size)
}
