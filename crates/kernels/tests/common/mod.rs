//! Shared by the kernel tests: values, memory layouts, error norms and numeric gradients.

// Each test binary uses a part of this module.
#![allow(dead_code)]

use std::cell::Cell;
use std::sync::OnceLock;

use skipstone_kernels::conv::{Algorithm, Epilogue, Layer, Shape, Source};
use skipstone_kernels::{Isa, Team, View, ViewMut};

/// A stream of values in −1..1 that depends on the seed.
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    };
    // The first values of neighbouring seeds are similar.
    (0..4).for_each(|_| _ = next());
    (0..len).map(|_| next()).collect()
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn length(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// ‖a − b‖/‖b‖; exceeds any bound if a value is not finite.
pub fn error(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    length(a.iter().zip(b).map(|(a, b)| f64::from(*a) - b)) / length(b.iter().copied()).max(1e-12)
}

/// ‖a − b‖/(1 + ‖b‖), for sums that may cancel almost completely.
pub fn absolute_error(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    length(a.iter().zip(b).map(|(a, b)| f64::from(*a) - b)) / (1.0 + length(b.iter().copied()))
}

/// Asserts that `error` is below `bound`, which NaN is not. With `KERNEL_ERRORS` set, prints their ratio.
#[track_caller]
pub fn below(error: f64, bound: f64, what: impl Fn() -> String) {
    if std::env::var_os("KERNEL_ERRORS").is_some() {
        println!("error {:.2} of {bound:e}: {}", error / bound, what());
    }
    assert!(error < bound, "{}: expected an error below {bound:e}, found {error:e}", what());
}

/// Asserts that the values are bit-identical.
#[track_caller]
pub fn same(a: &[f32], b: &[f32], what: impl Fn() -> String) {
    assert_eq!(a.len(), b.len());
    if let Some(i) = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits()) {
        panic!("{}: element {i} is {:e} and {:e}", what(), a[i], b[i]);
    }
}

/// d/dx Σ dy·f(x) by central differences in f64, for every element of x.
pub fn numeric_gradient(x: &[f64], dy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    (0..x.len())
        .map(|i| {
            let mut u = vec![0.0; x.len()];
            u[i] = 1.0;
            derivative(x, &u, dy, &f)
        })
        .collect()
}

/// d/dt Σ dy·f(x + t·u) at t = 0, by central differences in f64.
pub fn derivative(x: &[f64], u: &[f64], dy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> f64 {
    let h = 1e-5;
    let loss = |t: f64| {
        let x: Vec<f64> = x.iter().zip(u).map(|(x, u)| x + t * u).collect();
        f(&x).iter().zip(dy).map(|(y, d)| y * f64::from(*d)).sum::<f64>()
    };
    (loss(h) - loss(-h)) / (2.0 * h)
}

/// `[n, pixels, channels]` as `[n, channels, pixels]`.
pub fn planes<T: Copy>(n: usize, channels: usize, rows: &[T]) -> Vec<T> {
    let pixels = rows.len() / (n * channels);
    let at = |image, channel, pixel| rows[(image * pixels + pixel) * channels + channel];
    (0..n * channels * pixels).map(|i| at(i / pixels / channels, i / pixels % channels, i % pixels)).collect()
}

/// `[n, channels, pixels]` as `[n, pixels, channels]`.
pub fn rows<T: Copy>(n: usize, channels: usize, planes: &[T]) -> Vec<T> {
    let pixels = planes.len() / (n * channels);
    let at = |image, channel, pixel| planes[(image * channels + channel) * pixels + pixel];
    (0..n * channels * pixels).map(|i| at(i / pixels / channels, i % channels, i / channels % pixels)).collect()
}

/// The memory layout of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Without gaps.
    Dense,
    /// Some of the channels of wider rows.
    Part,
}

pub const LAYOUTS: [Layout; 2] = [Layout::Dense, Layout::Part];

/// Fills the gaps between rows, which must not be written. Reading one would show in the result.
const GAP: u32 = 0x7FC0_0BAD;

/// Rows in memory that ends at the last channel of the last row.
#[derive(Clone, Debug)]
pub struct Rows {
    data: Vec<f32>,
    stride: usize,
    offset: usize,
    count: usize,
    channels: usize,
}

impl Rows {
    pub fn new(layout: Layout, channels: usize, content: &[f32]) -> Self {
        let (stride, offset) = if layout == Layout::Dense { (channels, 0) } else { (channels + 8, 3) };
        let count = content.len() / channels;
        assert_eq!(count * channels, content.len());
        let len = if count == 0 { 0 } else { (count - 1) * stride + offset + channels };
        let mut data = vec![f32::from_bits(GAP); len];
        for (row, content) in content.chunks_exact(channels).enumerate() {
            data[row * stride + offset..][..channels].copy_from_slice(content);
        }
        Self { data, stride, offset, count, channels }
    }

    /// Rows to be written, filled with NaN.
    pub fn blank(layout: Layout, count: usize, channels: usize) -> Self {
        Self::new(layout, channels, &vec![f32::NAN; count * channels])
    }

    pub fn view(&self) -> View<'_> {
        View::part(&self.data, self.stride, self.offset)
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut::part(&mut self.data, self.stride, self.offset)
    }

    /// The content, after checking that nothing was written between the rows.
    #[track_caller]
    pub fn content(&self) -> Vec<f32> {
        let inside = |i: usize| i % self.stride >= self.offset && i % self.stride < self.offset + self.channels;
        let written = (0..self.data.len()).find(|i| !inside(*i) && self.data[*i].to_bits() != GAP);
        assert_eq!(written, None, "written between rows");
        let row = |row: usize| self.data[row * self.stride + self.offset..][..self.channels].iter().copied();
        (0..self.count).flat_map(row).collect()
    }
}

/// Teams of one to three threads.
pub fn teams() -> &'static [Team; 3] {
    static TEAMS: OnceLock<[Team; 3]> = OnceLock::new();
    thread_local!(static POISONED: Cell<bool> = const { Cell::new(false) });
    if !POISONED.replace(true) {
        poison();
    }
    TEAMS.get_or_init(|| [1, 2, 3].map(|threads| Team::new(threads).expect("three threads")))
}

/// Every algorithm for a shape.
pub fn algorithms(shape: &Shape) -> Vec<Algorithm> {
    let all = [Algorithm::Direct, Algorithm::Winograd2, Algorithm::Winograd4];
    all.into_iter().filter(|a| *a == Algorithm::Direct || shape.is_winograd()).collect()
}

/// Fills this thread's scratch memory with NaN, because kernels must not rely on its content.
pub fn poison() {
    let shape = Shape {
        c_in: 64,
        c_out: 64,
        input: [16, 16],
        kernel: 3,
        stride: 1,
        pad_before: 1,
        pad_after: 1,
        upsample: false,
    };
    let (x, w) = (vec![f32::NAN; 64 * 256], vec![f32::NAN; 64 * 64 * 9]);
    for isa in Isa::available() {
        for algorithm in algorithms(&shape) {
            let layer = Layer::pack(Team::solo(), isa, shape, algorithm, &[(&w, &[f32::NAN; 64])]);
            let mut y = vec![0.0; 64 * 256];
            let source = Source::plain(View::dense(&x, 64));
            layer.forward(Team::solo(), 1, source, Epilogue::default(), &mut ViewMut::dense(&mut y, 64));
        }
    }
}
