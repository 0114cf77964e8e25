//! Arbitrary bytes as a data set: an array, an archive of arrays, an archive or a table of images. The first byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone::io::data::{DataOptions, DataSpec, Split};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let ending = ["npy", "npz", "tar", "parquet"][usize::from(kind % 4)];
    let path = std::env::temp_dir().join(format!("skipstone-fuzz-{}.{ending}", std::process::id()));
    std::fs::write(&path, bytes).expect("a writable temporary folder");
    let spec: DataSpec = path.to_str().expect("an ordinary path").parse().expect("not empty");
    for split in [Split::Train, Split::Test] {
        let fitted = DataOptions { size: Some([4, 4]), channels: Some(1), ..DataOptions::default() };
        for options in [fitted, DataOptions::default()] {
            let Ok(data) = spec.load(split, &options) else { continue };
            // Few values: a short file may hold images of many pixels.
            if data.shape().iter().product::<usize>() < 1 << 20 {
                let _ = data.batch(0..data.len().min(4));
            }
            let _ = data.digest();
        }
    }
});
