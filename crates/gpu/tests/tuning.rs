//! The choice of tiles. One test: all of this binary's tests share a device and its choices.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use common::*;
use skipstone_gpu::attention;
use skipstone_gpu::conv::{self, Epilogue, Norm, Part, Shape, Weights};
use skipstone_gpu::{Element, Gpu, Tile, Tuning, View, gradient};

const N: usize = 3;

/// A convolution, its gradients and attention forward and backward: every bit of their results.
fn everything(gpu: &Gpu, element: Element) -> Vec<u32> {
    let shape = Shape {
        c_in: 24,
        c_out: 40,
        input: [9, 11],
        kernel: 3,
        stride: 1,
        pad_before: 1,
        pad_after: 1,
        upsample: false,
    };
    let (inputs, outputs) = (N * shape.input_pixels() * shape.c_in, N * shape.output_pixels() * shape.c_out);
    let view =
        |len: usize, seed, channels| View::dense(stored(gpu, element, &numbers(len, seed)), channels).stored(element);
    let read = |view: &View, len| bits(&read_stored(gpu, element, &view.buffer, len));
    let whole = Part { offset: 0, first: 0, channels: shape.c_out };
    let parameters = upload(gpu, &numbers(shape.weights(), 2));
    let [packed, transposed] = [0, 1].map(|_| Weights::reserve(gpu, &shape, element).unwrap());
    conv::pack(gpu, &shape, &parameters, whole, &packed);
    conv::pack_transposed(gpu, &shape, &parameters, whole, &transposed);
    let norm = Norm { ab: upload(gpu, &numbers(N * 2 * shape.c_in, 3)), silu: true };
    let (x, y) = (view(inputs, 1, shape.c_in), view(outputs, 4, shape.c_out));
    // The output's previous content counts: measuring must not touch it.
    let accumulate = Epilogue { accumulate: true, ..Epilogue::default() };
    conv::forward(gpu, &shape, N, &x, Some(&norm), &packed, &accumulate, &y);
    let dx = view(inputs, 5, shape.c_in);
    conv::backward_data(gpu, &shape, N, &y, &transposed, &dx, true);
    let scratch = gpu.reserve(gradient::scratch(&shape, N)).unwrap();
    let dw = upload(gpu, &numbers(shape.weights(), 6));
    gradient::weights(gpu, &shape, N, &x, Some(&norm), &y, &scratch, &dw, &[whole]);

    let heads = attention::Shape { channels: 40, heads: 5, pixels: 99 };
    let (qkv, dy) = (view(3 * outputs, 7, 3 * 40), view(outputs, 8, 40));
    let (z, dqkv) = (view(outputs, 9, 40), view(3 * outputs, 10, 3 * 40));
    let scratch = [0, 1].map(|_| gpu.reserve(heads.images_at_once(N) * heads.scores()).unwrap());
    attention::forward(gpu, &heads, N, &qkv, &scratch[0], &z);
    attention::backward(gpu, &heads, N, &qkv, &dy, [&scratch[0], &scratch[1]], &dqkv);
    let dw = bits(&gpu.read(&dw).unwrap());
    [read(&y, outputs), read(&dx, inputs), dw, read(&z, outputs), read(&dqkv, 3 * outputs)].concat()
}

#[test]
fn tiles_are_measured_once_and_change_no_bit() {
    let Some((gpu, halves)) = halves() else { return };
    for element in [&[Element::F32], &halves[..]].concat() {
        gpu.tune(Tuning::default());
        let expected = everything(&gpu, element);

        let measured = Arc::new(Mutex::new(BTreeMap::<String, Tile>::new()));
        let told = measured.clone();
        let keep = move |product: &str, tile: Tile| {
            let before = told.lock().unwrap().insert(product.to_owned(), tile);
            assert_eq!(before, None, "{product} was measured twice");
        };
        gpu.tune(Tuning { keep: Some(Box::new(keep)), ..Tuning::default() });
        assert!(everything(&gpu, element) == expected, "measuring changed {element:?}");
        assert!(everything(&gpu, element) == expected, "measured tiles changed {element:?}");
        let measured = measured.lock().unwrap().clone();
        // The convolution and its two gradients; attention's seven products are of three kinds.
        assert_eq!(measured.len(), 6, "{measured:#?}");
        assert!(measured.values().flatten().all(|sums| [1, 2, 4].contains(sums)), "{measured:#?}");

        for tile in [1, 2, 4].into_iter().flat_map(|rows| [1, 2, 4].map(|columns| [rows, columns])) {
            let known = measured.keys().map(|product| (product.clone(), tile)).collect();
            gpu.tune(Tuning { known, keep: None });
            assert!(everything(&gpu, element) == expected, "tiles of {tile:?} changed {element:?}");
        }
        // What no tile can be, as a file may say.
        let known = measured.keys().map(|product| (product.clone(), [3, 0])).collect();
        gpu.tune(Tuning { known, keep: None });
        assert!(everything(&gpu, element) == expected, "impossible tiles");
    }
}
