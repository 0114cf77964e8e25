use serde_json::Value;

use crate::support::{run, skipstone, with_model};

#[test]
fn a_benchmark_says_what_was_measured_with_what() {
    let folder = with_model();
    for kind in [&[][..], &["--train"][..]] {
        let mut arguments =
            vec!["bench", "--model", "model", "--batch", "1,3", "--calls", "2", "--threads", "2", "--json"];
        arguments.extend(kind);
        let (stdout, _) = run(folder.path(), &arguments, 0);
        let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| line["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
        for line in &lines {
            let (milliseconds, rate) = (line["ms_per_call"].as_f64().unwrap(), line["images_per_s"].as_f64().unwrap());
            let batch = line["batch"].as_f64().unwrap();
            assert!(milliseconds > 0.0 && (rate * milliseconds / 1e3 / batch - 1.0).abs() < 1e-9, "{line}");
            assert_eq!(line["threads"], 2);
            assert!(["avx512", "avx2", "portable"].contains(&line["isa"].as_str().unwrap()), "{line}");
            if cfg!(target_os = "linux") {
                assert!(line["peak_rss_mb"].as_f64().unwrap() > 1.0, "{line}");
            }
        }
    }
}

#[test]
fn an_instruction_set_can_be_forced_and_nothing_else_passes_for_one() {
    let folder = with_model();
    let bench = |isa: &str| {
        let arguments = ["bench", "--model", "model", "--batch", "1", "--calls", "1", "--json"];
        let output = skipstone(folder.path(), &arguments).env("SKIPSTONE_ISA", isa).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stdout, _) = bench("portable");
    assert_eq!(code, Some(0));
    assert!(stdout.contains("\"portable\""), "{stdout}");
    let (code, _, stderr) = bench("avx1024");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("SKIPSTONE_ISA") && stderr.contains("avx1024") && stderr.contains("portable"), "{stderr}");
}

#[test]
fn a_profile_names_the_layers() {
    let folder = with_model();
    let arguments = ["bench", "--model", "model", "--batch", "2", "--calls", "2", "--profile"];
    let (stdout, _) = run(folder.path(), &arguments, 0);
    assert!(stdout.contains("3×3 8→8 at 8×8") && stdout.contains("statistics of 8 channels, 64 pixels"), "{stdout}");
}
