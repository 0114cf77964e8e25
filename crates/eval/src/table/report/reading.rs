//! The words of a page: where its numbers come from, all of them as text, and what they mean.

use super::sections::Section;
use super::text::{Html, distance, uncertain};

/// Everything the numbers depend on.
pub(super) fn provenance(page: &mut Html, section: &Section<'_>) {
    page.element("h3", "", "Where the numbers come from");
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

/// What each number means.
pub(super) fn reading(page: &mut Html) {
    page.raw("<section aria-labelledby=\"reading\">\n");
    page.element("h2", "id=\"reading\"", "How to read this page");
    page.raw("<dl class=\"reading\">\n");
    let terms = [
        (
            "Fréchet distance",
            "Distance between the Gaussians fitted to the features of the samples and of the training images; less is \
             better. It is comparable only between numbers made with the same features, data and n, and it is called FID only \
             where the Inception network of FID made the features.",
        ),
        (
            "Floor",
            "The same distance of test images, as many as there are samples (but no more than 10,000, and than there are). A \
             model at the floor is as near to the training images as new photographs are. Fewer images have a larger distance: \
             the numbers of both stand below, and only where they are alike is the floor one.",
        ),
        (
            "KID",
            "Kernel distance, without the bias that a small n gives the Fréchet distance; plus or minus its standard error.",
        ),
        (
            "Precision, recall",
            "The share of samples that look like real images, and of real images that the samples cover: quality and variety.",
        ),
        (
            "Memorisation",
            "Median distance of samples to their nearest training image, divided by that of test images, in pixels. Well below \
             1, look at the pairs; blurred images are below 1 as well.",
        ),
        (
            "Latent variance",
            "The share of the variance of a pixel that remains between samples of one latent: 0 where the latent decides \
             everything, as with η = 0; near 1 where it decides nothing.",
        ),
        (
            "Consistency",
            "Distance between images of the same latents in S steps and in the most steps of the row: root mean square of the \
             means of squares of 4 × 4 pixels, values from 0 to 1. Small for η = 0, where the latent decides; with noise the \
             images part ways.",
        ),
        (
            "Seconds",
            "Wall-clock time in which the samples were drawn, on the machines that are named, and with whatever else they were \
             doing.",
        ),
    ];
    for (name, about) in terms {
        page.element("dt", "", name);
        page.element("dd", "", about);
    }
    page.raw("</dl>\n</section>\n");
}
