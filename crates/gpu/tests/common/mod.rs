//! The device under test, and numbers without any pattern.

// Each test binary uses a part of this module.
#![allow(dead_code)]

use half::{bf16, f16};
use skipstone_gpu::{Api, Buffer, Element, Gpu, View, adapters};

/// The first device; `None`, and a line that says so, where there is no driver.
pub fn gpu() -> Option<Gpu> {
    let Some(adapter) = adapters(Api::Any).into_iter().next() else {
        assert!(std::env::var_os("SKIPSTONE_NEED_GPU").is_none(), "no graphics driver");
        eprintln!("skipped: no graphics driver (apt-get install mesa-vulkan-drivers)");
        return None;
    };
    let gpu = Gpu::open(&adapter).expect("a device");
    let wanted = std::env::var_os("SKIPSTONE_NEED_MATRIX_UNITS").is_some();
    assert!(gpu.properties().matrix_units || !wanted, "no matrix units");
    Some(gpu)
}

/// The first device with the ways of storing 16-bit numbers that it has; a line says which it lacks.
pub fn halves() -> Option<(Gpu, Vec<Element>)> {
    let gpu = gpu()?;
    let has = gpu.properties();
    let all = [(has.half, Element::F16), (has.bfloat, Element::BF16)];
    for (_, element) in all.iter().filter(|(has, _)| !has) {
        eprintln!("skipped: the device does not compute in {element:?}");
    }
    Some((gpu, all.into_iter().filter(|(has, _)| *has).map(|(_, element)| element).collect()))
}

/// Numbers in ±1 that depend on the seed.
pub fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678_9ABC_DEF1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// ‖found − expected‖/‖expected‖.
pub fn relative(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - b));
    difference / square(&mut expected.iter().copied()).max(1e-30)
}

pub fn assert_close(what: &str, found: &[f32], expected: &[f64], most: f64) {
    let difference = relative(found, expected);
    assert!(difference <= most, "{what}: relative difference {difference:e}");
}

/// `[pixels, channels]` from `[channels, pixels]`.
pub fn pixels(channels: usize, planes: &[f64]) -> Vec<f64> {
    let count = planes.len() / channels;
    (0..planes.len()).map(|i| planes[i % channels * count + i / channels]).collect()
}

/// `[channels, pixels]` from `[pixels, channels]`.
pub fn planes(channels: usize, pixels: &[f32]) -> Vec<f64> {
    let count = pixels.len() / channels;
    (0..pixels.len()).map(|i| f64::from(pixels[i % count * channels + i / count])).collect()
}

/// Rows of `channels` within rows that are wider by `more`, at offset `more / 2`; what surrounds them is NaN.
pub fn padded(gpu: &Gpu, channels: usize, more: usize, rows: &[f32]) -> View {
    let stride = channels + more;
    let mut all = vec![f32::NAN; rows.len() / channels * stride];
    for (wide, row) in all.chunks_exact_mut(stride).zip(rows.chunks_exact(channels)) {
        wide[more / 2..more / 2 + channels].copy_from_slice(row);
    }
    View::part(gpu.upload(&all).unwrap(), stride, more / 2)
}

/// The rows of a [`padded`] view. What surrounds them must still be NaN.
pub fn rows(gpu: &Gpu, channels: usize, view: &View) -> Vec<f32> {
    let all = gpu.read(&view.buffer).unwrap();
    let mut found = Vec::new();
    for row in all.chunks_exact(view.stride) {
        let (before, rest) = row.split_at(view.offset);
        let (here, after) = rest.split_at(channels);
        assert!(before.iter().chain(after).all(|v| v.is_nan()), "written beside its channels");
        found.extend_from_slice(here);
    }
    found
}

pub fn upload(gpu: &Gpu, values: &[f32]) -> Buffer {
    gpu.upload(values).unwrap()
}

/// The bits of a number that is stored in 16, and the number that 16 bits mean.
fn to_bits(element: Element, value: f32) -> u16 {
    match element {
        Element::F32 => panic!("32 bits"),
        Element::F16 => f16::from_f32(value).to_bits(),
        Element::BF16 => bf16::from_f32(value).to_bits(),
    }
}

fn from_bits(element: Element, bits: u16) -> f32 {
    match element {
        Element::F32 => panic!("32 bits"),
        Element::F16 => f16::from_bits(bits).to_f32(),
        Element::BF16 => bf16::from_bits(bits).to_f32(),
    }
}

/// The nearest numbers that can be stored so.
pub fn rounded(element: Element, values: &[f32]) -> Vec<f32> {
    match element {
        Element::F32 => values.to_vec(),
        _ => values.iter().map(|v| from_bits(element, to_bits(element, *v))).collect(),
    }
}

/// Numbers as they are stored.
pub fn stored(gpu: &Gpu, element: Element, values: &[f32]) -> Buffer {
    if element == Element::F32 {
        return upload(gpu, values);
    }
    let bits = |v: &f32| u32::from(to_bits(element, *v));
    let word = |pair: &[f32]| bits(&pair[0]) | pair.get(1).map_or(0, bits) << 16;
    gpu.upload_integers(&values.chunks(2).map(word).collect::<Vec<_>>()).unwrap()
}

/// The first `len` numbers of a buffer.
pub fn read_stored(gpu: &Gpu, element: Element, buffer: &Buffer, len: usize) -> Vec<f32> {
    let words = gpu.read(buffer).unwrap();
    if element == Element::F32 {
        return words[..len].to_vec();
    }
    let halves = words.iter().flat_map(|word| [word.to_bits() as u16, (word.to_bits() >> 16) as u16]);
    halves.take(len).map(|bits| from_bits(element, bits)).collect()
}

/// How far a number may be from the nearest that can be stored so, relative to its size.
pub fn step(element: Element) -> f64 {
    match element {
        Element::F32 => 2f64.powi(-24),
        Element::F16 => 2f64.powi(-11),
        Element::BF16 => 2f64.powi(-8),
    }
}

/// The bits of values, so that equality is exact.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
