//! Group normalisation and its gradients against their definition in f64.

mod common;

use common::*;
use skipstone_gpu::conv::Vectors;
use skipstone_gpu::norm::{self, Affine, Gradients, Shape};
use skipstone_gpu::{Gpu, View};
use skipstone_kernels::reference;

/// Groups of 1 to 130 channels, 28 and 17 wide.
fn shapes() -> Vec<Shape> {
    let shape = |channels, pixels, groups, silu| Shape { channels, pixels, groups, eps: 1e-5, silu };
    vec![
        shape(32, 28 * 28, 32, true),
        shape(96, 9 * 17, 32, true),
        shape(8, 4, 2, false),
        shape(260, 6, 2, true),
        shape(1, 300, 1, true),
    ]
}

const N: usize = 3;

struct Case {
    shape: Shape,
    x: Vec<f32>,
    parameters: Vec<f32>,
    vectors: Vec<f32>,
}

impl Case {
    fn new(shape: Shape) -> Self {
        let c = shape.channels;
        // A mean that is large beside the deviation.
        let x = numbers(N * shape.pixels * c, 1).into_iter().map(|v| 8.0 + v).collect();
        Self { shape, x, parameters: numbers(2 * c + 7, 2), vectors: numbers(2 * (2 * c + 5), 3) }
    }

    const ROW_OF: [u32; N] = [1, 0, 1];

    fn affine(&self, gpu: &Gpu, scale_shift: bool) -> Affine {
        let c = self.shape.channels;
        let vectors = || Vectors {
            view: View::part(upload(gpu, &self.vectors), 2 * c + 5, 3),
            rows: 2,
            row_of: gpu.upload_integers(&Self::ROW_OF).unwrap(),
        };
        Affine {
            parameters: upload(gpu, &self.parameters),
            gamma: 3,
            beta: c + 7,
            scale_shift: scale_shift.then(vectors),
        }
    }

    /// The definition, for one image given as planes.
    fn define(&self, image: usize, x: &[f64], scale_shift: bool) -> Vec<f64> {
        let c = self.shape.channels;
        let Shape { channels, pixels, groups, eps, silu } = self.shape;
        let shape = skipstone_kernels::norm::Shape { channels, pixels, groups, eps, silu };
        let (gamma, beta) = (wide(&self.parameters[3..3 + c]), wide(&self.parameters[c + 7..]));
        let at = Self::ROW_OF[image] as usize * (2 * c + 5) + 3;
        let vector = wide(&self.vectors[at..at + 2 * c]);
        reference::group_norm(&shape, x, &gamma, &beta, scale_shift.then_some(&vector))
    }

    fn image<'a>(&self, all: &'a [f32], image: usize) -> &'a [f32] {
        let len = all.len() / N;
        &all[image * len..(image + 1) * len]
    }
}

#[test]
fn a_normalisation_is_its_definition() {
    let Some(gpu) = gpu() else { return };
    for shape in shapes() {
        for scale_shift in [false, true] {
            let case = Case::new(shape);
            let c = shape.channels;
            let x = padded(&gpu, c, 6, &case.x);
            let y = padded(&gpu, c, 4, &vec![0.0; case.x.len()]);
            let (ab, statistics) = (gpu.reserve(N * 2 * c).unwrap(), gpu.reserve(N * 2 * shape.groups).unwrap());
            norm::coefficients(&gpu, &shape, N, &x, &case.affine(&gpu, scale_shift), &ab, &statistics);
            norm::apply(&gpu, &shape, N, &x, &ab, &y);
            let found = rows(&gpu, c, &y);
            let expected: Vec<f64> = (0..N)
                .flat_map(|i| pixels(c, &case.define(i, &planes(c, case.image(&case.x, i)), scale_shift)))
                .collect();
            assert_close(&format!("{shape:?} {scale_shift}"), &found, &expected, 5e-6);
        }
    }
}

/// Step of central differences in f64.
const H: f64 = 1e-5;

#[test]
fn a_normalisations_gradients_are_slopes_of_its_definition() {
    let Some(gpu) = gpu() else { return };
    for shape in shapes().into_iter().filter(|shape| shape.channels * shape.pixels < 2000) {
        for scale_shift in [false, true] {
            let case = Case::new(shape);
            let c = shape.channels;
            let affine = case.affine(&gpu, scale_shift);
            let (x, dy) = (padded(&gpu, c, 6, &case.x), numbers(case.x.len(), 5));
            let before = numbers(case.x.len(), 6);
            let (dx, dy_view) = (padded(&gpu, c, 2, &before), padded(&gpu, c, 8, &dy));
            let (ab, statistics) = (gpu.reserve(N * 2 * c).unwrap(), gpu.reserve(N * 2 * shape.groups).unwrap());
            let sums = gpu.reserve(N * 2 * c).unwrap();
            let gradient = upload(&gpu, &vec![0.25; case.parameters.len()]);
            let by_vector = upload(&gpu, &vec![0.5; N * 2 * c]);
            norm::coefficients(&gpu, &shape, N, &x, &affine, &ab, &statistics);
            let into = Gradients {
                dx: &dx,
                accumulate: true,
                parameters: &gradient,
                scale_shift: scale_shift.then_some(&by_vector),
            };
            norm::backward(&gpu, &shape, N, &x, &affine, &ab, &statistics, &dy_view, &sums, into);

            // Σ dy·y as a function of everything.
            let value = |case: &Case, x: &[Vec<f64>]| -> f64 {
                (0..N)
                    .map(|i| {
                        let y = pixels(c, &case.define(i, &x[i], scale_shift));
                        y.iter().zip(case.image(&dy, i)).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>()
                    })
                    .sum()
            };
            let images: Vec<Vec<f64>> = (0..N).map(|i| planes(c, case.image(&case.x, i))).collect();
            let slope = |image: usize, at: usize| {
                let [above, below] = [H, -H].map(|h| {
                    let mut moved = images.clone();
                    moved[image][at] += h;
                    value(&case, &moved)
                });
                (above - below) / (2.0 * H)
            };
            let found = rows(&gpu, c, &dx);
            let mut expected: Vec<f64> = (0..N)
                .flat_map(|i| pixels(c, &(0..images[i].len()).map(|at| slope(i, at)).collect::<Vec<_>>()))
                .collect();
            expected.iter_mut().zip(&before).for_each(|(d, b)| *d += f64::from(*b));
            assert_close(&format!("dx of {shape:?} {scale_shift}"), &found, &expected, 3e-5);

            // γ and β are f32 in the case: differences over a wider step suffice, since y is nearly linear in them.
            let wider = 1.0f32 / 64.0;
            let by_parameter = |at: usize| {
                let [above, below] = [wider, -wider].map(|h| {
                    let mut moved = Case::new(shape);
                    moved.parameters[at] += h;
                    (value(&moved, &images), f64::from(moved.parameters[at]))
                });
                (above.0 - below.0) / (above.1 - below.1)
            };
            let found = gpu.read(&gradient).unwrap();
            let expected: Vec<f64> = (0..found.len()).map(|at| 0.25 + by_parameter(at)).collect();
            assert_close(&format!("dγ, dβ of {shape:?} {scale_shift}"), &found, &expected, 2e-4);
            if scale_shift {
                let by_scale = |image: usize, at: usize| {
                    let [above, below] = [wider, -wider].map(|h| {
                        let mut moved = Case::new(shape);
                        let place = Case::ROW_OF[image] as usize * (2 * c + 5) + 3 + at;
                        moved.vectors[place] += h;
                        let y = pixels(c, &moved.define(image, &images[image], true));
                        let sum = y.iter().zip(case.image(&dy, image)).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>();
                        (sum, f64::from(moved.vectors[place]))
                    });
                    (above.0 - below.0) / (above.1 - below.1)
                };
                let found = gpu.read(&by_vector).unwrap();
                let expected: Vec<f64> = (0..found.len()).map(|i| 0.5 + by_scale(i / (2 * c), i % (2 * c))).collect();
                assert_close(&format!("scales and shifts of {shape:?}"), &found, &expected, 2e-4);
            }
        }
    }
}
