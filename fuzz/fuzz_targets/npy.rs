//! Arbitrary bytes as a .npy file of latents. Valid tensors are written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ndarray::{Array, Ix4, IxDyn};
use skipstone::io::image::npy::{decode, encode};

fuzz_target!(|data: &[u8]| {
    let _: Result<Array<f32, Ix4>, _> = decode(data, data.len() as u64);
    let Ok(tensor): Result<Array<f32, IxDyn>, _> = decode(data, data.len() as u64) else { return };
    let mut bytes = Vec::new();
    encode(&mut bytes, tensor.view()).expect("memory takes every byte");
    assert_eq!(decode::<f32, IxDyn>(&bytes[..], bytes.len() as u64).expect("what was written can be read"), tensor);
});
