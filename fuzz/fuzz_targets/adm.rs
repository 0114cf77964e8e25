//! Flags, a line break, and the header of a safetensors file of guided-diffusion: names and shapes as the fuzzer likes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone::io::checkpoint::{AdmFlags, LoadOptions, load};

/// Bytes of tensors behind the header.
const TENSORS: usize = 1 << 16;

fuzz_target!(|text: &str| {
    let (flags, header) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(flags) = flags.parse::<AdmFlags>() else { return };
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + TENSORS, 0);
    let path = std::env::temp_dir().join(format!("skipstone-fuzz-{}-adm.safetensors", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder can be written");
    let _ = load(&path, &LoadOptions { flags: Some(flags), ..LoadOptions::default() });
    let _ = std::fs::remove_file(&path);
});
