use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use skipstone::io::image::{Picture, read_png, write_png};
use skipstone::unet::Config;

use crate::support::{names, read, run, signal, skipstone, write_model};

/// A folder with a data set of 28×28 images, `fashion-mnist` of 60 training and 40 test images where the program looks for
/// it, and a tiny model of that size.
fn with_data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &Config { sample_size: [28, 28], ..Config::smallest() }, None);
    let data = folder.path().join("data/fashion-mnist");
    std::fs::create_dir_all(&data).unwrap();
    for (part, n, salt) in [("train", 60usize, 1u64), ("t10k", 40, 2)] {
        let pixel = |i: u64| ((i + 1_000_000 * salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
        let images = [0, 0, 8, 3, 0, 0, 0, n as u8, 0, 0, 0, 28, 0, 0, 0, 28].into_iter();
        let images: Vec<u8> = images.chain((0..n as u64 * 784).map(pixel)).collect();
        let labels: Vec<u8> =
            [0, 0, 8, 1, 0, 0, 0, n as u8].into_iter().chain((0..n).map(|i| (i % 10) as u8)).collect();
        std::fs::write(data.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        std::fs::write(data.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
    folder
}

/// The cells that most tests make: two of them with noise.
const CELLS: &str = "--model model --data fashion-mnist --steps 2,3 --eta 0,1 -n 8 --repeats 3x2";

fn words(arguments: &str) -> Vec<&str> {
    std::iter::once("evaluate").chain(arguments.split_whitespace()).collect()
}

#[track_caller]
fn evaluate(folder: &Path, arguments: &str, code: i32) -> (String, String) {
    run(folder, &words(arguments), code)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of `results.json`, without what depends on the clock.
fn timeless(folder: &Path) -> Vec<Value> {
    let value: Value = serde_json::from_slice(&read(folder, "results.json")).unwrap();
    let mut rows = value["rows"].as_array().unwrap().clone();
    for row in &mut rows {
        let seconds = row.as_object_mut().unwrap().remove("seconds").unwrap();
        assert!(seconds.as_f64().unwrap() > 0.0);
    }
    rows
}

/// All files of samples below `folder`.
fn sample_files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for cell in names(&folder.join("samples")) {
        let cell = folder.join("samples").join(cell);
        all.extend(names(&cell).into_iter().filter(|name| name.ends_with(".png")).map(|name| cell.join(name)));
    }
    all
}

#[test]
fn the_table_of_the_carried_model_has_its_cells_floor_and_provenance() {
    let folder = with_data();
    let at = folder.path();
    let cells =
        "--data fashion-mnist --steps 2,3 --eta 0,hat,analytic --solver ddim,heun -n 8 --reference 50 --repeats 2x2";
    let (stdout, _) = evaluate(at, &format!("{cells} --json -o out"), 0);
    let rows = lines(&stdout);
    let short: Vec<String> = rows
        .iter()
        .map(|row| format!("{} {} {} {}", row["solver"].as_str().unwrap(), row["eta"], row["steps"], row["calls"]))
        .collect();
    assert_eq!(
        short,
        [
            "ddim 0.0 2 2",
            "ddim 0.0 3 3",
            "ddim \"hat\" 2 2",
            "ddim \"hat\" 3 3",
            "ddim \"analytic\" 2 2",
            "ddim \"analytic\" 3 3",
            "heun 0.0 2 3",
            "heun 0.0 3 5"
        ]
    );
    for row in &rows {
        for name in ["frechet", "frechet_floor", "seconds", "kid", "kid_error", "nearest", "memorisation", "variance"] {
            assert!(row[name].as_f64().is_some_and(f64::is_finite), "{name}: {row}");
        }
        assert!(row["frechet"].as_f64() > row["frechet_floor"].as_f64(), "{row}");
        let shares = ["precision", "recall"].map(|name| row[name].as_f64().unwrap());
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{row}");
        assert_eq!((row["n"].as_u64(), row["train"].as_u64(), row["floor_n"].as_u64()), (Some(8), Some(50), Some(8)));
        assert!(row["features"].as_str().unwrap().starts_with("fashion-cnn-128d ("), "{row}");
        assert_eq!(row["weights"].as_str(), Some("ema"));
        assert_eq!(row["model"].as_str().map(str::len), Some(64));
        assert_eq!(row["options"]["times"].as_array().unwrap().len(), row["steps"].as_u64().unwrap() as usize);
        let varies = row["latent_variance"].as_f64().unwrap() > 0.0;
        assert_eq!(varies, row["eta"].is_string(), "{row}");
    }
    // The floor is one, and the same for all.
    assert!(rows.iter().all(|row| row["frechet_floor"] == rows[0]["frechet_floor"]));
    assert_eq!(
        names(&at.join("out")),
        ["pictures", "reference", "report.html", "results.csv", "results.json", "samples"]
    );
    let csv = String::from_utf8(read(at, "out/results.csv")).unwrap();
    let columns = csv.lines().next().unwrap().split(',').count();
    assert_eq!(csv.lines().count(), 1 + rows.len());
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
    assert!(csv.starts_with("steps,eta,spacing,solver,clip,calls,n,frechet,frechet_floor,features,"), "{csv}");
    let page = String::from_utf8(read(at, "out/report.html")).unwrap();
    assert_eq!(page.matches("<figure><img").count(), rows.len());
    for text in ["<th scope=\"row\">η = 0, heun</th>", "σ̂", "fashion-cnn-128d", rows[0]["model"].as_str().unwrap()]
    {
        assert!(page.contains(text), "{text}");
    }
    assert!(
        !page.contains("http://")
            || page.matches("http://").count() == page.matches("http://www.w3.org/2000/svg").count()
    );

    // Nothing is left to do, and doing it again changes nothing.
    let cost = &lines(&evaluate(at, &format!("{cells} --json --dry-run -o out"), 0).0)[0];
    assert_eq!((cost["images"].as_u64(), cost["cells"].as_array().unwrap().len()), (Some(0), rows.len()));
    let before = ["results.json", "results.csv", "report.html"].map(|name| read(&at.join("out"), name));
    let (table, _) = evaluate(at, &format!("{cells} -o out"), 0);
    assert_eq!(["results.json", "results.csv", "report.html"].map(|name| read(&at.join("out"), name)), before);
    assert!(
        table.starts_with("Fréchet distance in features fashion-cnn-128d (")
            && table
                .lines()
                .next()
                .unwrap()
                .ends_with(") to 50 training images of fashion-mnist: 8 samples, ema weights; floor: 8 test images"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 2 + rows.len() + 1);
    assert!(table.trim_end().ends_with("report.html"), "{table}");
}

#[test]
fn cells_are_added_to_those_that_are_there_and_images_shared_between_numbers() {
    let folder = with_data();
    let at = folder.path();
    let base = "--model model --data fashion-mnist --repeats off -o out";
    evaluate(at, &format!("{base} --steps 2,3 --eta 1 -n 6"), 0);
    let files = sample_files(&at.join("out"));
    // A subset needs no new image; four more are four more, and the first ones stay.
    evaluate(at, &format!("{base} --steps 3 --eta 1 -n 4"), 0);
    assert_eq!(sample_files(&at.join("out")), files);
    let cost = &lines(&evaluate(at, &format!("{base} --steps 3 --eta 1 -n 10 --json --dry-run"), 0).0)[0];
    assert_eq!(cost["images"], 4);
    evaluate(at, &format!("{base} --steps 3 --eta 1 -n 10 --batch 3"), 0);
    assert_eq!(sample_files(&at.join("out")).len(), files.len() + 1);
    evaluate(at, &format!("{base} --steps 3 --spacing quadratic -n 6"), 0);
    let rows = timeless(&at.join("out"));
    let short: Vec<_> = rows.iter().map(|row| format!("{} {} {}", row["steps"], row["spacing"], row["n"])).collect();
    assert_eq!(short, ["2 \"linear\" 6", "3 \"linear\" 6", "3 \"linear\" 4", "3 \"linear\" 10", "3 \"quadratic\" 6"]);
    assert!(rows.iter().all(|row| row["latent_variance"].is_null()));
    // The images are those of `sample`, as its pictures are.
    run(at, &"sample --model model --steps 3 --eta 1 -n 10 -o plain/".split(' ').collect::<Vec<_>>(), 0);
    let cell = sample_files(&at.join("out"))
        .iter()
        .find(|path| path.ends_with("000000-000005.png") && path.to_string_lossy().contains("/3-eta1"))
        .unwrap()
        .clone();
    let [kept, rest] =
        [cell.clone(), cell.with_file_name("000006-000009.png")].map(|path| read_png(&path).unwrap().picture);
    let kept: Vec<u8> = kept.data().iter().chain(rest.data()).copied().collect();
    let plain: Vec<u8> = (0..10)
        .flat_map(|i| read_png(&at.join(format!("plain/{i:06}.png"))).unwrap().picture.data().to_vec())
        .collect();
    assert_eq!(kept, plain);
}

#[test]
fn restarted_runs_are_rows_of_their_own_with_the_calls_and_images_of_sample() {
    let folder = with_data();
    let at = folder.path();
    let base = "--model model --data fashion-mnist --steps 4 --solver ddim,heun -n 6 --repeats 2x2 -o out";
    evaluate(at, base, 0);
    evaluate(at, &format!("{base} --restart 249,749,2"), 0);
    let rows = timeless(&at.join("out"));
    let short: Vec<_> =
        rows.iter().map(|row| format!("{} {} {}", row["solver"], row["calls"], row["restart"])).collect();
    // Two of the four steps are made thrice.
    assert_eq!(
        short,
        [r#""ddim" 4 null"#, r#""heun" 7 null"#, r#""ddim" 8 "[249,749,2]""#, r#""heun" 15 "[249,749,2]""#]
    );
    let varies: Vec<bool> = rows.iter().map(|row| row["latent_variance"].as_f64().unwrap() > 0.0).collect();
    assert_eq!(varies, [false, false, true, true]);
    let page = String::from_utf8(read(at, "out/report.html")).unwrap();
    assert!(page.contains("<th scope=\"row\">η = 0, heun, restart [249,749,2]</th>"), "{page}");
    assert!(page.contains("<th scope=\"row\">η = 0, ddim, restart none</th>"), "{page}");

    let sample = "sample --model model --steps 4 --solver heun --restart 249,749,2 -n 6 -o plain/";
    run(at, &sample.split(' ').collect::<Vec<_>>(), 0);
    let plain: Vec<u8> =
        (0..6).flat_map(|i| read_png(&at.join(format!("plain/{i:06}.png"))).unwrap().picture.data().to_vec()).collect();
    let kept: Vec<_> =
        sample_files(&at.join("out")).iter().map(|path| read_png(path).unwrap().picture.data().to_vec()).collect();
    assert_eq!(kept.iter().filter(|&kept| *kept == plain).count(), 1);

    let (_, error) = evaluate(at, &format!("{base} --restart 249,749,2 --eta 0,1"), 2);
    assert!(error.contains("restart: needs a run without noise"), "{error}");
}

#[test]
fn an_evaluation_that_was_killed_or_interrupted_ends_as_if_it_had_not_been() {
    let folder = with_data();
    let at = folder.path();
    let cells = "--model model --data fashion-mnist --steps 5,60 --eta 1 -n 12 --repeats 3x2 --batch 2";
    evaluate(at, &format!("{cells} -o whole"), 0);
    for (name, sent) in [("stopped", "INT"), ("killed", "KILL")] {
        let arguments = format!("{cells} -o {name}");
        let child = skipstone(at, &words(&arguments)).stderr(std::process::Stdio::piped()).spawn().unwrap();
        // The first cell is drawn: it is in the midst of the second, which is twelve times as long.
        while !at.join(name).join("samples").exists() || sample_files(&at.join(name)).is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        signal(sent, child.id());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if sent == "INT" && output.status.code() != Some(0) {
            assert_eq!(output.status.code(), Some(130), "{said}");
            assert!(said.contains("of 2 cells are finished and all drawn images are kept; continue with: "), "{said}");
        }
        evaluate(at, &arguments, 0);
        assert_eq!(timeless(&at.join(name)), timeless(&at.join("whole")), "{name}");
        for file in names(&at.join("whole/pictures")) {
            let [ours, theirs] = ["whole", name].map(|run| read(&at.join(run), &format!("pictures/{file}")));
            assert_eq!(ours, theirs, "{name}: {file}");
        }
    }
}

#[test]
fn a_damaged_file_of_samples_is_said_and_drawn_again() {
    let folder = with_data();
    let at = folder.path();
    evaluate(at, &format!("{CELLS} -o out"), 0);
    let before = timeless(&at.join("out"));
    let files = sample_files(&at.join("out"));
    // Another picture under the name of one, half of another, and one that is gone.
    write_png(&files[0], &Picture::new(28, 28 * 8, 1, vec![7; 28 * 28 * 8]).unwrap(), &[]).unwrap();
    let bytes = std::fs::read(&files[1]).unwrap();
    std::fs::write(&files[1], &bytes[..bytes.len() / 2]).unwrap();
    std::fs::remove_file(&files[2]).unwrap();
    let (_, said) = evaluate(at, &format!("{CELLS} -o out"), 0);
    assert_eq!(said.matches("its images will be drawn again").count(), 2, "{said}");
    assert_eq!(timeless(&at.join("out")), before);
    assert_eq!(sample_files(&at.join("out")), files);
    std::fs::write(at.join("out/results.json"), "{").unwrap();
    let (_, error) = evaluate(at, &format!("{CELLS} -o out"), 1);
    assert!(error.contains("results.json") && error.contains("remove it"), "{error}");
    std::fs::remove_file(at.join("out/results.json")).unwrap();
    evaluate(at, &format!("{CELLS} -o out"), 0);
    assert_eq!(timeless(&at.join("out")), before);
}

#[test]
fn shards_put_together_are_the_whole() {
    let folder = with_data();
    let at = folder.path();
    evaluate(at, &format!("{CELLS} -o whole"), 0);
    for k in 1..=3 {
        let options = CELLS.replace("--data fashion-mnist ", "");
        let (stdout, said) = evaluate(at, &format!("{options} --shard {k}/3 -o shard{k}"), 0);
        assert!(
            stdout.is_empty() && said.contains("run the same command with --merge instead of --shard"),
            "{stdout}{said}"
        );
        assert_eq!(names(&at.join(format!("shard{k}"))), ["samples"]);
        for cell in names(&at.join(format!("shard{k}/samples"))) {
            let to = at.join("merged/samples").join(&cell);
            std::fs::create_dir_all(&to).unwrap();
            for file in names(&at.join(format!("shard{k}/samples")).join(&cell)) {
                std::fs::copy(at.join(format!("shard{k}/samples")).join(&cell).join(&file), to.join(&file)).unwrap();
            }
        }
    }
    let cost = &lines(&evaluate(at, &format!("{CELLS} --json --dry-run -o merged"), 0).0)[0];
    assert_eq!(cost["images"], 0);
    evaluate(at, &format!("{CELLS} -o merged"), 0);
    assert_eq!(timeless(&at.join("merged")), timeless(&at.join("whole")));
}

#[test]
fn shards_in_one_folder_are_merged_without_drawing() {
    let folder = with_data();
    let at = folder.path();
    evaluate(at, &format!("{CELLS} -o whole"), 0);
    for k in [3, 1] {
        evaluate(at, &format!("{CELLS} --shard {k}/3 -o shared"), 0);
    }
    let (_, error) = evaluate(at, &format!("{CELLS} --merge -o shared"), 2);
    assert!(error.contains("--merge: images ") && error.contains("--shard 2/3"), "{error}");
    assert!(error.contains(" of eta 0, S = 2, are missing in"), "{error}");
    // The message's own command draws what is missing.
    let again =
        error.split("draw them with: skipstone ").nth(1).or_else(|| error.split("draw them with: ").nth(1)).unwrap();
    let again: Vec<&str> = again.split_whitespace().skip_while(|word| *word != "evaluate").collect();
    run(at, &again, 0);
    evaluate(at, &format!("{CELLS} --merge -o shared"), 0);
    assert_eq!(timeless(&at.join("shared")), timeless(&at.join("whole")));
}

#[test]
fn a_dry_run_writes_nothing_and_mistakes_are_named() {
    let folder = with_data();
    let at = folder.path();
    let (stdout, _) = evaluate(at, &format!("{CELLS} --dry-run -o out"), 0);
    // Four cells of 8 images; from 3 latents those with noise draw once more.
    assert!(stdout.contains("for 38 images") && stdout.contains("would write out"), "{stdout}");
    assert!(!at.join("out").exists());
    for (arguments, code, message) in [
        ("--steps 2 --eta -1 -n 8", 2, "expected a number of at least 0, or one of hat, analytic, learned"),
        ("--steps 2 --eta 2x -n 8", 2, "expected a number of at least 0, or one of hat, analytic, learned"),
        ("--steps 0 -n 8", 2, "steps: expected at least 1"),
        ("--steps 2000 -n 8", 2, "2000"),
        ("--steps 2 -n 1", 2, "at least 2 images"),
        ("--steps 2 -n 8 --first 18446744073709551610", 2, "64 bits"),
        ("--steps 2 --eta 1 --solver heun -n 8", 2, "add 0 to the etas"),
        ("--steps 2 --shard 3/2 -n 8", 2, "K from 1 to N"),
        ("--steps 2 --repeats 3x1 -n 8", 2, "2 to 1000 draws"),
        ("--steps 2 --reference 1 -n 8", 2, "--reference"),
        ("--steps 2 --features vgg -n 8", 2, "expected fashion-cnn or FILE.onnx:OUTPUT"),
        ("--steps 2 --features absent.onnx:pool -n 8", 1, "absent.onnx"),
        ("--steps 2 --eta analytic -n 8", 1, "skipstone calibrate"),
        ("--steps 2 --class 3 -n 8", 2, "unconditional"),
    ] {
        let (_, error) = evaluate(at, &format!("--model model --data fashion-mnist {arguments} -o out"), code);
        assert!(error.contains(message), "{arguments}: {error}");
        assert!(!at.join("out").exists(), "{arguments}");
    }
    let (_, error) = evaluate(at, "--model model --steps 2 -n 8 -o out", 2);
    assert!(error.contains("--data"), "{error}");
    // A folder of other things is nobody's to write into, with or without a shard.
    for shard in ["", "--shard 1/2"] {
        let (_, error) = evaluate(at, &format!("{CELLS} {shard} -o model"), 2);
        assert!(error.contains("-o model: the folder has ") && error.contains("choose another folder"), "{error}");
        assert!(!at.join("model/samples").exists() && !at.join("model/reference").exists());
    }
    std::fs::create_dir_all(at.join("begun/reference")).unwrap();
    evaluate(at, &format!("{CELLS} --dry-run -o begun"), 0);
    let (_, error) = evaluate(at, "--model model --data absent --steps 2 -n 8 -o out", 1);
    assert!(error.contains("absent"), "{error}");
}
