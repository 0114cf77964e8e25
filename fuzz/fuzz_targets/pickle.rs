//! Arbitrary bytes as the pickle of a legacy checkpoint, after a valid start of the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone_fuzz::load_weights;

/// Magic number, protocol version 1001, system information.
const BEFORE: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";

fuzz_target!(|data: &[u8]| load_weights(&[BEFORE, data].concat()));
