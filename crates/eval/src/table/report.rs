//! A page of all results: tables, curves, samples, and the origin of the numbers. It is a single file with style, curves and
//! pictures inside, and loads nothing else.

mod axis;
mod curves;
mod heat;
mod reading;
mod sections;
mod text;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skipstone::error::{Error, Kind, Result};
use skipstone::io::files;

use super::pictures;
use super::results::Results;
use super::row::Row;
use reading::{all_numbers, provenance, reading};
use sections::{Line, Section, floor_images, sections};
use text::{Html, counted, distance, escaped, seconds};

const STYLE: &str = include_str!("report/style.css");
/// Most bytes of a picture. Pictures of small images are far below it; larger ones would slow down a browser.
const MOST_PICTURE: u64 = 1 << 24;

/// The page `report.html` of the results in `folder`, with the pictures from there. Pictures that do not exist, or are
/// larger than 16 MB, are left out.
///
/// # Errors
/// There is no row, or a picture cannot be read.
pub fn report(results: &Results, folder: &Path) -> Result<String> {
    let sections = sections(results.rows());
    let Some(first) = results.rows().first() else {
        return Err(Error::argument("there are no results to report"));
    };
    let mut page = Html::new();
    let title = format!("Evaluation on {}", first.data);
    page.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.raw("<meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"generator\" content=\"skipstone\">\n");
    page.element("title", "", &title);
    page.raw(&format!("<style>\n{STYLE}{}</style>\n</head>\n<body>\n<main>\n", curves::dark_style()));
    page.raw("<header>\n");
    page.element("h1", "", &title);
    page.element("p", "class=\"lead\"", &lead(results.rows()));
    page.raw("</header>\n");
    for (i, section) in sections.iter().enumerate() {
        part(&mut page, section, sections.len() > 1, i, folder)?;
    }
    reading(&mut page);
    page.raw("</main>\n</body>\n</html>\n");
    Ok(page.into_string())
}

/// A sentence that sums up the page.
fn lead(rows: &[Row]) -> String {
    let mut models: Vec<String> =
        rows.iter().map(|row| format!("{} ({})", text::short(&row.model), row.weights)).collect();
    models.sort();
    models.dedup();
    let (model, cells) = (models.join(", "), counted(rows.len(), "cell"));
    let images: u64 = rows.iter().map(|row| row.n).sum();
    format!("{cells}, {} images drawn and scored. Model {model}, {}.", text::grouped(images), rows[0].program)
}

fn part(page: &mut Html, section: &Section<'_>, named: bool, i: usize, folder: &Path) -> Result<()> {
    page.raw(&format!("<section aria-labelledby=\"part-{i}\">\n"));
    let row = section.first();
    let data = if named { format!("{}, ", row.data) } else { String::new() };
    let images = format!("{} images per cell, features {}", text::grouped(row.n), row.features);
    page.element("h2", &format!("id=\"part-{i}\""), &format!("{data}{images}"));
    page.element("p", "class=\"same\"", &section.constant_text());
    facts(page, section);
    heat::tables(page, section);
    page.element("h3", "", "Curves");
    legend(page, section);
    page.raw("<div class=\"charts\">\n");
    curves::charts(page, section)?;
    page.raw("</div>\n");
    page.element("h3", "", "Samples");
    page.element("p", "", "The first images of each cell. Grids with the same seed start from the same latents.");
    for line in &section.lines {
        gallery(page, line, folder)?;
    }
    nearest(page, section, folder)?;
    provenance(page, section);
    all_numbers(page, section);
    page.raw("</section>\n");
    Ok(())
}

/// The best cell, the cheapest cell that is nearly as good, and the floor.
fn facts(page: &mut Html, section: &Section<'_>) {
    let Some((line, best)) = section.best() else { return };
    page.raw("<dl class=\"facts\">\n");
    let mut fact = |name: &str, value: &str, about: &str| {
        page.raw("<div>");
        page.element("dt", "", name);
        page.element("dd", "class=\"big\"", value);
        page.element("dd", "", about);
        page.raw("</div>\n");
    };
    let about = |line: &Line<'_>, row: &Row| {
        format!("{}, S = {}: {} per image", line.label, row.steps, counted(row.calls, "call"))
    };
    fact("Best Fréchet distance", &distance(best.frechet), &about(line, best));
    if let Some((line, near)) = section.cheapest_near(best.frechet * 1.1).filter(|(_, near)| near.calls < best.calls) {
        fact("Within 10 % of it, fewest calls", &distance(near.frechet), &about(line, near));
    }
    fact("Floor", &distance(best.frechet_floor), &format!("the score of {}", floor_images(best)));
    page.raw("</dl>\n");
}

fn legend(page: &mut Html, section: &Section<'_>) {
    page.raw("<ul class=\"legend\" aria-label=\"Lines of the curves\">\n");
    for (i, line) in section.lines.iter().enumerate() {
        page.raw(&format!("<li>{} {}</li>\n", curves::key(i), escaped(&line.label)));
    }
    page.raw(&format!("<li>{} floor: real images</li>\n</ul>\n", curves::floor_key()));
}

fn gallery(page: &mut Html, line: &Line<'_>, folder: &Path) -> Result<()> {
    let mut figures = Html::new();
    for row in line.cells.values() {
        let path = pictures::samples(&folder.join("pictures"), row);
        let alt = format!("Samples, {}, S = {}", line.label, row.steps);
        let each = seconds(row.seconds / row.n as f64);
        let caption = format!("S = {} · {} · {each} per image", row.steps, distance(row.frechet));
        figure(&mut figures, &path, &alt, &caption, "")?;
    }
    let figures = figures.into_string();
    if !figures.is_empty() {
        page.element("h4", "", &line.label);
        page.raw(&format!("<div class=\"gallery\">\n{figures}</div>\n"));
    }
    Ok(())
}

fn nearest(page: &mut Html, section: &Section<'_>, folder: &Path) -> Result<()> {
    let Some((line, best)) = section.best() else { return Ok(()) };
    let mut pairs = Html::new();
    let path = pictures::nearest(&folder.join("pictures"), best);
    let alt = "Samples above, their nearest training images below";
    figure(&mut pairs, &path, alt, &format!("{}, S = {}", line.label, best.steps), "class=\"wide\"")?;
    let pairs = pairs.into_string();
    if pairs.is_empty() {
        return Ok(());
    }
    page.element("h3", "", "Nearest training images");
    page.element(
        "p",
        "",
        "Above, the samples of the best cell that are nearest to a training image, pixel by pixel; below, those training \
         images. If both are the same picture, the model has memorised it.",
    );
    page.raw(&pairs);
    Ok(())
}

/// Puts a picture of the folder into the page, if it exists.
fn figure(page: &mut Html, path: &Path, alt: &str, caption: &str, attributes: &str) -> Result<()> {
    let bytes = match files::read(path, MOST_PICTURE) {
        Ok(bytes) => bytes,
        // The picture does not exist, or is too large for a page.
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::InvalidData) => return Ok(()),
        Err(e) => return Err(e),
    };
    let space = if attributes.is_empty() { "" } else { " " };
    page.raw(&format!("<figure{space}{attributes}><img alt=\"{}\" src=\"data:image/png;base64,", escaped(alt)));
    page.raw(&STANDARD.encode(bytes));
    page.raw("\">");
    page.element("figcaption", "", caption);
    page.raw("</figure>\n");
    Ok(())
}

#[cfg(test)]
mod tests;
