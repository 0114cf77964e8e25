//! Arbitrary bytes as a weight file: zip archive, legacy checkpoint or safetensors, depending on the first bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| skipstone_fuzz::load_weights(data));
