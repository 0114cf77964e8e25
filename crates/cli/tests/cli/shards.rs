//! Runs in parts: `--shard`, the files that hold many images, and sets of shards as data.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use ndarray::Array4;
use skipstone::io::image::{npy, read_png};

use crate::support::{names, read, run, skipstone, with_model};

const RUN: &str = "sample --model model --steps 3 --eta 1 -n 7";

#[track_caller]
fn command(at: &Path, arguments: &str, code: i32) -> (String, String) {
    run(at, &arguments.split_whitespace().collect::<Vec<_>>(), code)
}

/// The bytes of `arr_0` and their shape, as NumPy's format lays them out in an archive that is not compressed.
fn array_0(archive: &[u8]) -> (String, Vec<u8>) {
    let find = |what: &[u8]| archive.windows(what.len()).position(|window| window == what).unwrap();
    assert!(find(b"arr_0.npy") < find(b"\x93NUMPY"));
    let npy = &archive[find(b"\x93NUMPY")..];
    let length = usize::from(u16::from_le_bytes([npy[8], npy[9]]));
    let head = std::str::from_utf8(&npy[10..10 + length]).unwrap();
    let shape = head[head.find('(').unwrap() + 1..head.find(')').unwrap()].to_owned();
    assert!(head.contains("'|u1'"), "{head}");
    let count: usize = shape.split(',').filter_map(|n| n.trim().parse::<usize>().ok()).product();
    (shape, npy[10 + length..][..count].to_vec())
}

/// The pixels of a folder's images in order.
fn pixels(folder: &Path) -> Vec<u8> {
    let files = names(folder).into_iter().filter(|name| name.ends_with(".png"));
    files.flat_map(|name| read_png(&folder.join(name)).unwrap().picture.data().to_vec()).collect()
}

/// Unpacks an archive by the system's own `tar`.
fn unpack(at: &Path, archive: &str, to: &str) {
    std::fs::create_dir_all(at.join(to)).unwrap();
    let status = Command::new("tar").current_dir(at).args(["-xf", archive, "-C", to]).status().unwrap();
    assert!(status.success());
}

#[test]
fn shards_in_any_order_hold_the_images_of_one_run() {
    let folder = with_model();
    let at = folder.path();
    command(at, &format!("{RUN} -o whole/"), 0);
    let whole = pixels(&at.join("whole"));
    for k in [3, 1, 2] {
        for out in ["set.npz", "set-%05d.tar", "set/", "set.npy"] {
            command(at, &format!("{RUN} --shard {k}/3 -o {out}"), 0);
        }
    }
    let mut bytes = Vec::new();
    for k in 1..=3 {
        bytes.extend(array_0(&read(at, &format!("set-0000{k}-of-00003.npz"))).1);
        unpack(at, &format!("set-0000{k}.tar"), "unpacked");
    }
    assert_eq!(bytes, whole);
    assert_eq!(pixels(&at.join("unpacked")), whole);
    assert_eq!(
        names(&at.join("unpacked")),
        [
            "000000.png",
            "000001.png",
            "000002.png",
            "000003.png",
            "000004.png",
            "000005.png",
            "000006.png",
            "__manifest__"
        ]
    );
    let folders = names(&at.join("set"));
    assert_eq!(folders, ["shard-00001-of-00003", "shard-00002-of-00003", "shard-00003-of-00003"]);
    assert_eq!(folders.iter().flat_map(|shard| pixels(&at.join("set").join(shard))).collect::<Vec<_>>(), whole);

    // Whatever reads images takes a set as one data set.
    let errors =
        |images: &str| command(at, &format!("reconstruct --model model --steps 2 --json --images {images}"), 0).0;
    let expected = errors("whole");
    for set in ["set.npz", "set-%05d.tar", "set"] {
        assert_eq!(errors(set).replace(set, "whole"), expected, "{set}");
    }
    // A shard drawn again is found to be complete.
    let before = read(at, "set-00002-of-00003.npz");
    command(at, &format!("{RUN} --shard 2/3 -o set.npz"), 0);
    assert_eq!(read(at, "set-00002-of-00003.npz"), before);
}

#[test]
fn a_shard_that_is_missing_torn_or_of_another_set_is_named() {
    let folder = with_model();
    let at = folder.path();
    for out in ["set.npz", "set-%05d.tar", "set/"] {
        for k in [1, 3] {
            command(at, &format!("{RUN} --shard {k}/3 -o {out}"), 0);
        }
        let (_, error) = command(at, &format!("{RUN} --shard 2/4 -o {out}"), 2);
        assert!(error.contains("begun with 3 shards") && error.contains("--shard K/3"), "{out}: {error}");
        let set = out.trim_end_matches('/');
        let look = format!("reconstruct --model model --steps 2 --images {set}");
        let (_, error) = command(at, &look, 1);
        assert!(error.contains("--shard 2/3"), "{set}: {error}");
        command(at, &format!("{RUN} --shard 2/3 -o {out}"), 0);
        command(at, &look, 0);
    }
    std::fs::remove_file(at.join("set/shard-00003-of-00003/000005.png")).unwrap();
    let (_, error) = command(at, "reconstruct --model model --steps 2 --images set", 1);
    assert!(error.contains("shard-00003-of-00003") && error.contains("--shard 3/3"), "{error}");
    let torn = read(at, "set-00001-of-00003.npz");
    std::fs::write(at.join("set-00001-of-00003.npz"), &torn[..torn.len() / 2]).unwrap();
    let (_, error) = command(at, "reconstruct --model model --steps 2 --images set.npz", 1);
    assert!(error.contains("set-00001-of-00003.npz"), "{error}");
    let (_, error) = command(at, &format!("{RUN} --shard 1/3 -o set.npz"), 1);
    assert!(error.contains("set-00001-of-00003.npz") && error.contains("remove the file"), "{error}");
    std::fs::remove_file(at.join("set-00001-of-00003.npz")).unwrap();
    command(at, &format!("{RUN} --shard 1/3 -o set.npz"), 0);
    assert_eq!(read(at, "set-00001-of-00003.npz"), torn);
}

#[test]
fn shards_of_two_runs_are_not_one_set() {
    let folder = with_model();
    let at = folder.path();
    for out in ["set-%05d.tar", "set/"] {
        let set = out.trim_end_matches('/');
        command(at, &format!("{RUN} --shard 1/2 -o {out}"), 0);
        command(at, &format!("{RUN} --seed 3 --shard 2/2 -o {out}"), 0);
        let look = format!("reconstruct --model model --steps 2 --images {set}");
        let (_, error) = command(at, &look, 1);
        assert!(error.contains("shards of two runs: seed is not that of the shard before"), "{error}");
    }
    command(at, "sample --model model --steps 3 -n 4 --shard 1/2 -o n/", 0);
    command(at, "sample --model model --steps 3 -n 8 --shard 2/2 -o n/", 0);
    let (_, error) = command(at, "reconstruct --model model --steps 2 --images n", 1);
    assert!(error.contains("its images begin at 4, those of the shard before end at 0 + 2"), "{error}");
}

#[test]
fn shards_of_arrays_share_one_range() {
    let folder = with_model();
    let at = folder.path();
    for (k, high) in [(1, 3.0), (2, 5.0)] {
        let x = Array4::from_shape_fn((2, 1, 8, 8), |(_, _, y, x)| (x + y) as f32 / 14.0 * high);
        npy::write(&at.join(format!("set-0000{k}-of-00002.npy")), x.view()).unwrap();
    }
    let look = "calibrate --model model --data set.npy -n 4 --dry-run";
    let (_, error) = command(at, look, 1);
    assert!(error.contains("have the range") && error.contains("--range LOW,HIGH"), "{error}");
    command(at, &format!("{look} --range 0,5"), 0);
}

#[test]
fn a_film_strip_of_an_archive_is_made_again_beside_it() {
    let folder = with_model();
    let at = folder.path();
    for out in ["set.tar", "set.npz"] {
        let sample = format!("{RUN} -o {out} --trajectory strip.png");
        command(at, &sample, 0);
        let (archive, strip) = (read(at, out), read(at, "strip.png"));
        std::fs::remove_file(at.join("strip.png")).unwrap();
        command(at, &sample, 0);
        assert!(read(at, out) == archive && read(at, "strip.png") == strip, "{out}");
    }
}

#[test]
fn an_archive_on_stdout_is_that_of_a_file() {
    let folder = with_model();
    let at = folder.path();
    command(at, &format!("{RUN} -o set.tar"), 0);
    let words: Vec<&str> = RUN.split_whitespace().chain(["-o", "-"]).collect();
    let output = skipstone(at, &words).output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == read(at, "set.tar"), "{}", String::from_utf8_lossy(&output.stderr));

    // A reader that has enough ends the command without an error of its own.
    let words: Vec<&str> = "sample --model model --steps 3 -n 5000 -o -".split_whitespace().collect();
    let mut child = skipstone(at, &words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut start = [0; 4096];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked") && !said.contains("error"), "{said}");
}

#[test]
fn an_array_of_jobs_and_ranks_number_the_shards() {
    let folder = with_model();
    let at = folder.path();
    let words: Vec<&str> = RUN.split_whitespace().chain(["--shard", "auto", "-o", "set.npz"]).collect();
    for task in ["4", "6"] {
        let array = [("ID", task), ("MIN", "4"), ("STEP", "2"), ("COUNT", "2")];
        let mut run = skipstone(at, &words);
        for (name, value) in array {
            run.env(format!("SLURM_ARRAY_TASK_{name}"), value);
        }
        assert!(run.output().unwrap().status.success());
    }
    command(at, &format!("{RUN} -o whole.npz"), 0);
    let [one, two, whole] =
        ["set-00001-of-00002.npz", "set-00002-of-00002.npz", "whole.npz"].map(|name| array_0(&read(at, name)));
    assert_eq!(whole.0, "7, 8, 8, 1");
    assert_eq!([one.1, two.1].concat(), whole.1);
    let output = skipstone(at, &words).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SLURM_ARRAY_TASK_ID"));
}
