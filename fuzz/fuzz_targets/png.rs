//! Arbitrary bytes as a PNG with text chunks. Valid pictures are written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone::io::image::{decode_png, encode_png};

fuzz_target!(|data: &[u8]| {
    let Ok(found) = decode_png(data) else { return };
    let texts: Vec<(&str, &str)> = found.text.iter().map(|(key, text)| (&key[..], &text[..])).collect();
    // Keywords of other programs may be too long or not ASCII.
    let Ok(bytes) = encode_png(&found.picture, &texts) else { return };
    let again = decode_png(&bytes).expect("what was written can be read");
    assert_eq!(again.picture, found.picture);
    assert!(found.text.iter().all(|text| again.text.contains(text)));
});
