//! The text of a page: the origin of its numbers, all numbers as text, and their meaning.

use super::sections::Section;
use super::text::{Html, distance, uncertain};

/// Everything that the numbers depend on.
pub(super) fn provenance(page: &mut Html, section: &Section<'_>) {
    page.element("h3", "", "Origin of the numbers");
    page.raw("<dl class=\"provenance\">\n");
    for (name, value) in section.provenance() {
        page.element("dt", "", &name);
        page.element("dd", "", &value);
    }
    page.raw("</dl>\n");
}

/// Every number of every cell, as text.
pub(super) fn all_numbers(page: &mut Html, section: &Section<'_>) {
    page.raw("<details>\n<summary>All numbers</summary>\n<div class=\"scroll\">\n<table class=\"all\">\n<thead>\n<tr>");
    let names = [
        "row",
        "S",
        "calls",
        "Fréchet",
        "floor",
        "KID × 1000",
        "precision",
        "recall",
        "memorisation",
        "latent variance",
        "consistency",
        "seconds",
    ];
    for name in names {
        page.element("th", "scope=\"col\"", name);
    }
    page.raw("</tr>\n</thead>\n<tbody>\n");
    for line in &section.lines {
        for row in line.cells.values() {
            page.raw("<tr>");
            page.element("th", "scope=\"row\"", &line.label);
            let optional =
                |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |v| format!("{v:.digits$}"));
            let kid = row.kid.zip(row.kid_error).map(|(kid, error)| uncertain(1000.0 * kid, 1000.0 * error));
            let values = [
                row.steps.to_string(),
                row.calls.to_string(),
                distance(row.frechet),
                distance(row.frechet_floor),
                kid.unwrap_or("–".to_owned()),
                optional(row.precision, 3),
                optional(row.recall, 3),
                optional(row.memorisation, 3),
                optional(row.latent_variance, 3),
                optional(row.coarse_rms, 4),
                format!("{:.1}", row.seconds),
            ];
            for value in values {
                page.element("td", "", &value);
            }
            page.raw("</tr>\n");
        }
    }
    page.raw("</tbody>\n</table>\n</div>\n</details>\n");
}

/// The meaning of each number.
pub(super) fn reading(page: &mut Html) {
    page.raw("<section aria-labelledby=\"reading\">\n");
    page.element("h2", "id=\"reading\"", "How to read this page");
    page.raw("<dl class=\"reading\">\n");
    let terms = [
        (
            "Fréchet distance",
            "Distance between the Gaussians fitted to the features of the samples and of the training images. Less is better. \
             Compare only numbers with the same features, data and n. The distance is an FID only if the Inception network \
             of FID made the features.",
        ),
        (
            "Floor",
            "The same distance for as many test images as there are samples (at most 10,000, and no more than exist). A model \
             at the floor is as near to the training images as new photographs are. Fewer images give a larger distance, so \
             the floor holds only if both numbers of images, given below, are similar.",
        ),
        (
            "KID",
            "Kernel distance, plus or minus its standard error. Unlike the Fréchet distance, it is not biased for small n.",
        ),
        (
            "Precision, recall",
            "Share of the samples that look like real images, and of the real images that the samples cover: quality and \
             variety.",
        ),
        (
            "Memorisation",
            "Median distance of samples to their nearest training image, in pixels, divided by the same for test images. If it \
             is well below 1, look at the pairs; blurred images are below 1 too.",
        ),
        (
            "Latent variance",
            "Share of the variance of a pixel that remains between samples of one latent: 0 if the latent decides everything, \
             as with η = 0; near 1 if it decides nothing.",
        ),
        (
            "Consistency",
            "Distance between images of the same latents in S steps and in the most steps of the row: root mean square over \
             means of 4 × 4 pixels, for values from 0 to 1. It is small for η = 0, where the latent decides the image, and \
             larger with noise.",
        ),
        (
            "Seconds",
            "Wall-clock time of drawing the samples on the machines named below, whatever else these were doing.",
        ),
    ];
    for (name, about) in terms {
        page.element("dt", "", name);
        page.element("dd", "", about);
    }
    page.raw("</dl>\n</section>\n");
}
