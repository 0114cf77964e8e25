use skipstone::io::image::{Picture, write_png};
use skipstone::sampling::options::Noise;

use super::super::row::tests::row;
use super::*;

/// Two lines of two cells, with pictures.
fn folder() -> (tempfile::TempDir, Results) {
    let folder = tempfile::tempdir().unwrap();
    let mut results = Results::default();
    for (steps, eta, frechet) in
        [(10, Noise::Eta(0.0), 20.0), (50, Noise::Eta(0.0), 5.0), (10, Noise::Hat, 300.0), (50, Noise::Hat, 40.0)]
    {
        results.put(row(steps, eta, frechet));
    }
    std::fs::create_dir(folder.path().join("pictures")).unwrap();
    for row in results.rows() {
        for path in [pictures::samples, pictures::nearest].map(|path| path(&folder.path().join("pictures"), row)) {
            write_png(&path, &Picture::new(2, 2, 1, vec![0, 80, 160, 255]).unwrap(), &[]).unwrap();
        }
    }
    (folder, results)
}

/// Every tag that is opened is closed, in order.
fn check_nesting(page: &str) {
    let void = ["meta", "img", "!DOCTYPE"];
    let mut open = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "near {}", &rest[..end.min(80)]);
        } else if !tag.ends_with('/') && !void.contains(&name) {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_is_whole_and_asks_nothing_of_anyone() {
    let (folder, results) = folder();
    let page = report(&results, folder.path()).unwrap();
    check_nesting(&page);
    let links: Vec<&str> = page.match_indices("http").map(|(i, _)| &page[i..(i + 26).min(page.len())]).collect();
    assert!(links.iter().all(|link| *link == "http://www.w3.org/2000/svg"), "{links:?}");
    for word in ["url(", "@import", "<script", "<link", "<iframe", "FID was", "NaN"] {
        assert!(!page.contains(word), "{word}");
    }
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 4 + 1);
    assert_eq!(page.matches("<img alt=\"").count(), 4 + 1);
    assert_eq!(page.matches("<svg class=\"plot\" role=\"img\" aria-label=").count(), 4);
    assert!(!page.contains("<img alt=\"\"") && !page.contains("<svg width="));
    // The data set's name is made to mean itself.
    assert!(page.contains("<h1>Evaluation on clothes, &quot;plain&quot;</h1>"));
}

#[test]
fn tables_have_headed_rows_and_columns_the_best_cell_marked_and_the_floor_below() {
    let (folder, results) = folder();
    let page = report(&results, folder.path()).unwrap();
    let table = &page[page.find("<table class=\"heat large\">").unwrap()..];
    let table = &table[..table.find("</table>").unwrap()];
    assert_eq!(table.matches("<th scope=\"col\">").count(), 2);
    assert!(table.contains("<th scope=\"row\">η = 0</th>") && table.contains("<th scope=\"row\">σ̂</th>"), "{table}");
    assert!(table.contains("<td class=\"best\" style=\"--q:1.00\">5.00</td>"), "{table}");
    assert!(table.contains("<td style=\"--q:0.00\">300</td>"), "{table}");
    // ln(300/40)/ln(300/5)
    assert!(table.contains("<td style=\"--q:0.49\">40.0</td>"), "{table}");
    assert!(table.contains("<th scope=\"row\">real images</th><td colspan=\"2\">1.50</td>"), "{table}");
}

#[test]
fn lines_are_named_by_what_differs_and_what_is_alike_is_said_once() {
    let mut results = Results::default();
    let plain = row(10, Noise::Eta(0.0), 20.0);
    let with = |change: &dyn Fn(&mut Row), key: &str| {
        let mut row = plain.clone();
        change(&mut row);
        row.options.insert(key.to_owned(), true.into());
        row
    };
    results.put(plain.clone());
    results.put(with(&|row| row.spacing = "quadratic".to_owned(), "a"));
    results.put(with(&|row| row.weights = "raw".to_owned(), "b"));
    results.put(with(&|row| row.n = 1000, "c"));
    let found = sections(results.rows());
    let labels: Vec<Vec<&str>> =
        found.iter().map(|s| s.lines.iter().map(|line| line.label.as_str()).collect()).collect();
    assert_eq!(
        labels,
        [
            vec!["η = 0, linear, weights ema", "η = 0, quadratic, weights ema", "η = 0, linear, weights raw"],
            vec!["η = 0"],
        ]
    );
    let same = "solver ddim, clipping off, model abababab, seed 3.";
    assert_eq!(found[0].constant_text(), format!("The same for all: {same}"));
    assert_eq!(
        found[1].constant_text(),
        format!(
            "The same for all: {}",
            same.replace("ddim,", "ddim, times linear,").replace("off,", "off, weights ema,")
        )
    );
    // Nothing to draw is no error: one cell, no kernel distance, no picture.
    let mut one = Results::default();
    one.put(Row { kid: None, kid_floor: None, recall: None, latent_variance: None, seconds: 0.0, ..plain });
    let page = report(&one, Path::new("absent")).unwrap();
    check_nesting(&page);
    assert!(!page.contains("<img") && !page.contains("KID × 1000</strong>"));
    assert!(report(&Results::default(), Path::new("absent")).is_err());
}

#[test]
#[ignore = "writes report.html of made-up numbers to the folder $SKIPSTONE_OUT for somebody to look at"]
fn a_page_to_look_at() {
    let out = std::path::PathBuf::from(std::env::var_os("SKIPSTONE_OUT").expect("SKIPSTONE_OUT names a folder"));
    let (folder, _) = folder();
    let mut results = Results::default();
    let etas = [Noise::Eta(0.0), Noise::Eta(0.2), Noise::Eta(0.5), Noise::Eta(1.0), Noise::Hat];
    for (i, eta) in etas.into_iter().enumerate() {
        for steps in [10, 20, 50, 100, 1000] {
            let noise = i as f64;
            let frechet = 3.0 + (40.0 + 60.0 * noise.powi(2)) / (steps as f64).powf(0.9 + 0.1 * noise);
            let recall = Some(0.7 - 0.9 / (steps as f64).sqrt() - 0.02 * noise);
            let latent_variance = Some(noise / 5.0 * (1.0 - 1.0 / (steps as f64).sqrt()));
            results.put(Row { recall, latent_variance, ..row(steps, eta.clone(), frechet) });
        }
    }
    let page = report(&results, folder.path()).unwrap();
    files::write_bytes(&out.join("report.html"), page.as_bytes()).unwrap();
}

#[test]
fn rows_that_differ_in_any_option_are_lines_of_their_own() {
    let with = |calibration: &str, frechet| {
        let mut row = row(10, Noise::Analytic { eta: 1.0 }, frechet);
        row.options.insert("calibration".to_owned(), calibration.into());
        row
    };
    let (one, other) = ("0123456789abcdef".repeat(4), "f123456789abcdef".repeat(4));
    let rows = [with(&one, 9.0), with(&other, 8.0), row(10, Noise::Eta(0.0), 7.0)];
    let found = sections(&rows);
    let labels: Vec<&str> = found[0].lines.iter().map(|line| line.label.as_str()).collect();
    assert_eq!(labels.len(), 3);
    assert!(labels[0].contains("calibration 01234567") && labels[1].contains("calibration f1234567"), "{labels:?}");
    // One calibration is none to tell lines apart by.
    let rows = [with(&one, 9.0), row(10, Noise::Eta(0.0), 7.0)];
    assert!(sections(&rows)[0].lines.iter().all(|line| !line.label.contains("calibration")));
}

#[test]
fn consistency_is_shown_against_the_most_steps_of_the_line_alone() {
    let mut results = Results::default();
    let against =
        |steps, against| Row { against, coarse_rms: against.map(|_| 0.125), ..row(steps, Noise::Eta(0.0), 9.0) };
    [against(10, Some(50)), against(20, Some(100)), against(100, None)].into_iter().for_each(|row| results.put(row));
    let page = report(&results, tempfile::tempdir().unwrap().path()).unwrap();
    let table = &page[page.find("<strong>Consistency").unwrap()..];
    let table = &table[..table.find("</table>").unwrap()];
    assert_eq!((table.matches("0.125").count(), table.matches("not measured").count()), (1, 2), "{table}");
    assert!(table.contains("0.125 <small>(100)"), "{table}");
}

#[test]
fn one_and_many_are_told_apart_and_so_are_halves_and_test_images() {
    let page = |row: Row| {
        let mut results = Results::default();
        results.put(row);
        report(&results, tempfile::tempdir().unwrap().path()).unwrap()
    };
    let many = page(row(10, Noise::Eta(0.0), 9.0));
    for text in ["S = 10: 10 calls per image", "the score of 5,000 test images", "2 threads (avx512)"] {
        assert!(many.contains(text), "{text}: {many}");
    }
    assert!(many.contains("60,000 training images; the floor: 5,000 test images"), "{many}");
    let machines = vec!["1 threads (avx2)".to_owned(), "11 threads (avx2)".to_owned()];
    let one = page(Row { calls: 1, floor_n: 4, halves: true, machines, ..row(1, Noise::Eta(0.0), 9.0) });
    for text in [
        "1 cell, ",
        "S = 1: 1 call per image",
        "the score of 4 images of the other half of the data",
        "1 thread (avx2); 11 threads (avx2)",
    ] {
        assert!(one.contains(text), "{text}: {one}");
    }
}

#[test]
fn few_images_and_resized_data_are_said() {
    let mut results = Results::default();
    let few =
        Row { n: 200, dimensions: 128, resized_from: Some("3x32x32".to_owned()), ..row(10, Noise::Eta(0.0), 9.0) };
    results.put(few);
    let page = report(&results, tempfile::tempdir().unwrap().path()).unwrap();
    assert!(page.contains("few for 128 features") && page.contains("cropped and resized from 3x32x32"), "{page}");
    let (folder, results) = folder();
    let page = report(&results, folder.path()).unwrap();
    assert!(!page.contains("few for") && !page.contains("resized from"));
}
