//! Arbitrary bytes as an IDX file, gzipped or not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone::io::data::{read_idx_images, read_idx_labels};

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("skipstone-fuzz-{}.idx", std::process::id()));
    std::fs::write(&path, data).expect("the temporary folder can be written");
    if let Ok(images) = read_idx_images(&path) {
        // Deflate cannot expand data any further.
        assert!(images.len() <= 1032 * data.len());
    }
    let _ = read_idx_labels(&path);
    let _ = std::fs::remove_file(&path);
});
