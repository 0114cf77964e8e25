//! Benchmarks of single layers from commonly sampled networks: `cargo bench -p skipstone-kernels`.
//!
//! Items per second are floating-point operations by the definition of a convolution. Winograd's algorithms may
//! therefore exceed the processor's peak, which the first benchmark measures. `SKIPSTONE_ISA` selects an instruction
//! set, `SKIPSTONE_THREADS` the number of threads.

use divan::Bencher;
use divan::counter::ItemsCount;
use skipstone_kernels::conv::{Algorithm, Epilogue, Layer, Norm, Precision, Shape, Source, backward_weights};
use skipstone_kernels::{Buffer, Isa, Team, View, ViewMut, attention, norm, peak};

fn main() {
    divan::main();
}

fn team() -> Team {
    let threads = std::env::var("SKIPSTONE_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    Team::new(threads).expect("threads")
}

/// Numbers in −1..1 without a pattern.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// (input channels, output channels, kernel, side): the CIFAR-10 network, then a small one.
const SHAPES: [(usize, usize, usize, usize); 12] = [
    (128, 128, 3, 32),
    (256, 256, 3, 16),
    (256, 256, 3, 8),
    (256, 256, 3, 4),
    (512, 256, 3, 16),
    (384, 128, 3, 32),
    (256, 128, 1, 32),
    (512, 256, 1, 16),
    (32, 32, 3, 32),
    (64, 64, 3, 16),
    (96, 96, 3, 7),
    (3, 128, 3, 32),
];

fn shape((c_in, c_out, kernel, side): (usize, usize, usize, usize)) -> Shape {
    let pad = kernel / 2;
    Shape { c_in, c_out, input: [side, side], kernel, stride: 1, pad_before: pad, pad_after: pad, upsample: false }
}

#[divan::bench(sample_count = 5)]
fn peak_of_multiply_adds(bencher: Bencher<'_, '_>) {
    let team = team();
    println!(
        "\npeak {:.0} GFLOP/s, {:?}, {} threads",
        peak::flops_per_second(Isa::best(), &team) / 1e9,
        Isa::best(),
        team.threads()
    );
    bencher.bench_local(|| peak::flops_per_second(Isa::best(), &team));
}

fn forward(bencher: Bencher<'_, '_>, batch: usize, shape: Shape, algorithm: Algorithm, precision: Precision) {
    let (team, isa) = (team(), Isa::best());
    let x = numbers(batch * shape.input_pixels() * shape.c_in);
    let (w, b) = (numbers(shape.c_out * shape.patch()), numbers(shape.c_out));
    let ab = numbers(batch * 2 * shape.c_in);
    let mut y = Buffer::zeros(batch * shape.output_pixels() * shape.c_out);
    // Alternates between copies, because in a network the weights of a layer are not in the cache when it runs.
    let layer = || {
        let mut layer = Layer::empty(isa, shape, algorithm).in_precision(precision);
        layer.repack(&team, &[(&w, &b)]);
        layer
    };
    let layers: Vec<Layer> = (0..6).map(|_| layer()).collect();
    let source = Source { x: View::dense(&x, shape.c_in), norm: Some(Norm { ab: &ab, silu: true }) };
    let mut turn = 0;
    bencher.counter(ItemsCount::new(shape.flops() * batch as u64)).bench_local(|| {
        turn = (turn + 1) % layers.len();
        layers[turn].forward(&team, batch, source, Epilogue::default(), &mut ViewMut::dense(&mut y, shape.c_out));
    });
}

#[divan::bench(args = SHAPES.map(Case), consts = [1, 4, 16], sample_count = 15)]
fn convolution<const BATCH: usize>(bencher: Bencher<'_, '_>, case: &Case) {
    let shape = shape(case.0);
    forward(bencher, BATCH, shape, shape.algorithm(), Precision::Single);
}

#[divan::bench(args = SHAPES.map(Case), consts = [1, 16], sample_count = 9)]
fn convolution_by_definition<const BATCH: usize>(bencher: Bencher<'_, '_>, case: &Case) {
    forward(bencher, BATCH, shape(case.0), Algorithm::Direct, Precision::Single);
}

/// In f32 where there are no matrix units, or not for this shape.
#[divan::bench(args = SHAPES.map(Case), consts = [1, 16], sample_count = 15)]
fn convolution_in_bf16<const BATCH: usize>(bencher: Bencher<'_, '_>, case: &Case) {
    let shape = shape(case.0);
    let precision = Precision::with_units(Isa::best(), &shape);
    forward(bencher, BATCH, shape, precision.algorithm(shape.algorithm()), precision);
}

#[divan::bench(args = SHAPES.map(Case), sample_count = 9)]
fn weight_gradient_of_sixteen(bencher: Bencher<'_, '_>, case: &Case) {
    let (team, isa, batch, shape) = (team(), Isa::best(), 16, shape(case.0));
    let x = numbers(batch * shape.input_pixels() * shape.c_in);
    let dy = numbers(batch * shape.output_pixels() * shape.c_out);
    let (mut dw, mut db) = (vec![0.0; shape.c_out * shape.patch()], vec![0.0; shape.c_out]);
    bencher.counter(ItemsCount::new(shape.flops() * batch as u64)).bench_local(|| {
        let (source, dy) = (Source::plain(View::dense(&x, shape.c_in)), View::dense(&dy, shape.c_out));
        let mut into = [(&mut dw[..], &mut db[..])];
        backward_weights(
            &shape,
            shape.training_algorithm(),
            Precision::Single,
            isa,
            &team,
            batch,
            source,
            dy,
            &mut into,
        );
    });
}

#[divan::bench(consts = [1, 4, 16], sample_count = 15)]
fn attention_256_channels_256_pixels<const BATCH: usize>(bencher: Bencher<'_, '_>) {
    let (team, isa) = (team(), Isa::best());
    let shape = attention::Shape { channels: 256, heads: 1, pixels: 256 };
    let qkv = numbers(BATCH * 256 * 768);
    let mut y = Buffer::zeros(BATCH * 256 * 256);
    bencher.counter(ItemsCount::new(shape.flops() * BATCH as u64)).bench_local(|| {
        attention::forward(&shape, isa, false, &team, BATCH, View::dense(&qkv, 768), &mut ViewMut::dense(&mut y, 256));
    });
}

#[divan::bench(consts = [1, 16], sample_count = 15)]
fn group_norm_statistics_128_channels_1024_pixels<const BATCH: usize>(bencher: Bencher<'_, '_>) {
    let (team, isa) = (team(), Isa::best());
    let shape = norm::Shape { channels: 128, pixels: 1024, groups: 32, eps: 1e-6, silu: true };
    let x = numbers(BATCH * 1024 * 128);
    let (gamma, beta) = (numbers(128), numbers(128));
    let (mut ab, mut statistics) = (vec![0.0; BATCH * 256], vec![0.0; BATCH * 64]);
    bencher.bench_local(|| {
        let affine = norm::Affine { gamma: &gamma, beta: &beta, scale_shift: None };
        norm::coefficients(&shape, isa, &team, BATCH, View::dense(&x, 128), affine, &mut ab, &mut statistics);
    });
}

/// A shape, displayed as in a table.
struct Case((usize, usize, usize, usize));

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (c_in, c_out, kernel, side) = self.0;
        write!(f, "{kernel}x{kernel} {c_in}->{c_out} at {side}x{side}")
    }
}
