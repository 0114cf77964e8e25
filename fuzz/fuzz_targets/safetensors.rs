//! Arbitrary bytes as a safetensors file. Valid tensors are written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone::io::checkpoint::{FloatType, read_tensors, write_tensors};

fuzz_target!(|data: &[u8]| {
    let Ok(set) = read_tensors(data) else { return };
    let tensors = set.tensors.iter().map(|t| (&t.name[..], &t.shape[..], &t.values[..]));
    let mut bytes = Vec::new();
    write_tensors(tensors, &set.metadata, FloatType::F32, &mut bytes).expect("what was read can be written");
    let again = read_tensors(&bytes).expect("what was written can be read");
    assert_eq!(again.tensors.len(), set.tensors.len());
    for tensor in &set.tensors {
        let other = again.get(&tensor.name).expect("every tensor is there");
        assert_eq!(other.shape, tensor.shape);
        // By bits, because NaN does not equal itself.
        assert!(other.values.iter().zip(&tensor.values).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
});
