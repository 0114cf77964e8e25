//! Single layers built from the kernels, forward and backward, against PyTorch with diffusers (golden/README.md), on
//! every instruction set of this processor and by every convolution algorithm.
//!
//! The tests build the layers independently of the network's graph, so that errors in the graph and in a kernel are
//! reported separately.

use std::collections::HashMap;

use serde_json::Value;
use skipstone_kernels::conv::{self, Algorithm, Epilogue, Source};
use skipstone_kernels::{Isa, Team, View, ViewMut, attention, elementwise, linear, norm};

use crate::golden::{self, Tensor};

/// How to run the kernels.
#[derive(Clone, Copy, Debug)]
struct Way {
    isa: Isa,
    /// The algorithm of the convolutions that support it.
    algorithm: Algorithm,
}

impl Way {
    fn of(self, shape: &conv::Shape) -> Algorithm {
        if shape.is_winograd() { self.algorithm } else { Algorithm::Direct }
    }
}

/// A layer of the file: its tensors, and the gradients computed so far.
struct Layer<'a> {
    name: String,
    way: Way,
    tensors: &'a HashMap<String, Tensor>,
    gradients: HashMap<String, Vec<f32>>,
}

const N: usize = 2;

impl Layer<'_> {
    fn tensor(&self, key: &str) -> &Tensor {
        &self.tensors[&format!("{}/{key}", self.name)]
    }

    fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(&format!("{}/{key}", self.name))
    }

    fn values(&self, key: &str) -> Vec<f32> {
        self.tensor(key).f32()
    }

    fn weight(&self, key: &str) -> Vec<f32> {
        self.values(&format!("weight/{key}"))
    }

    /// Images in channels-last order.
    fn pixels(&self, key: &str) -> Vec<f32> {
        let (channels, x) = (self.tensor(key).shape[1], self.values(key));
        let mut pixels = vec![0.0; x.len()];
        elementwise::from_planes(N, channels, (1.0, 0.0), &x, &mut ViewMut::dense(&mut pixels, channels));
        pixels
    }

    fn found(&mut self, key: &str, gradient: Vec<f32>) {
        assert!(self.gradients.insert(key.to_owned(), gradient).is_none(), "{}: {key} twice", self.name);
    }

    fn found_pixels(&mut self, key: &str, gradient: &[f32]) {
        self.found(key, planes(self.tensor(key).shape[1], gradient));
    }

    /// Compares the output and every gradient in the file with the computed ones.
    fn check(&self, y: &[f32]) {
        let what = format!("{} ({:?})", self.name, self.way);
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let difference = golden::relative(y.iter().map(|&v| f64::from(v)), &self.tensor("y").values);
        let bound = if self.way.algorithm == Algorithm::Winograd4 { 5e-6 } else { 2e-6 };
        assert!(difference < bound, "{what}: y: relative difference {difference:e}");
        let prefix = format!("{}/grad/", self.name);
        let mut compared = 0;
        for (key, expected) in self.tensors.iter().filter_map(|(key, t)| Some((key.strip_prefix(&prefix)?, t))) {
            let found = self.gradients.get(key).unwrap_or_else(|| panic!("{what}: no gradient of {key}"));
            assert_eq!(found.len(), expected.values.len(), "{what}: {key}");
            let error = norm(&mut found.iter().zip(&expected.values).map(|(a, b)| f64::from(*a) - b));
            let scale = norm(&mut expected.values.iter().copied());
            // Softmax is invariant to a constant, so the gradient of the keys' bias is only rounding error.
            let floor = if key == "to_k.bias" { 1e-5 } else { 0.0 };
            assert!(error <= 1e-5 * scale + floor, "{what}: {key}: off by {error:e}, norm {scale:e}");
            compared += 1;
        }
        assert_eq!(compared, self.gradients.len(), "{what}: a gradient that PyTorch does not have");
    }
}

/// Converts pixels to `[N, channels, pixels]`.
fn planes(channels: usize, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    elementwise::to_planes(N, channels, 1.0, View::dense(x, channels), &mut y);
    y
}

/// A convolution with the weights of one or more layers, one after the other.
struct Conv {
    names: Vec<[String; 2]>,
    shape: conv::Shape,
    parts: Vec<[Vec<f32>; 2]>,
}

impl Conv {
    /// Reads weights from `key.weight` and `key.bias` of each key; `input` is the size before upsampling.
    fn new(
        layer: &Layer<'_>,
        keys: &[&str],
        input: [usize; 2],
        stride: usize,
        pads: [usize; 2],
        upsample: bool,
    ) -> Self {
        let prefixes = keys.iter().map(|key| if key.is_empty() { String::new() } else { format!("{key}.") });
        let names: Vec<[String; 2]> = prefixes.map(|p| [format!("{p}weight"), format!("{p}bias")]).collect();
        let parts: Vec<[Vec<f32>; 2]> = names.iter().map(|n| n.each_ref().map(|name| layer.weight(name))).collect();
        let weight = &layer.tensor(&format!("weight/{}", names[0][0])).shape;
        let shape = conv::Shape {
            c_in: weight[1],
            c_out: parts.iter().map(|[_, b]| b.len()).sum(),
            input,
            kernel: weight.get(2).copied().unwrap_or(1),
            stride,
            pad_before: pads[0],
            pad_after: pads[1],
            upsample,
        };
        Self { names, shape, parts }
    }

    fn forward(&self, layer: &Layer<'_>, source: Source<'_>, epilogue: Epilogue<'_>) -> Vec<f32> {
        let parts: Vec<(&[f32], &[f32])> = self.parts.iter().map(|[w, b]| (&w[..], &b[..])).collect();
        let algorithm = layer.way.of(&self.shape);
        let packed = conv::Layer::pack(Team::solo(), layer.way.isa, self.shape, algorithm, &parts);
        let mut y = vec![0.0; N * self.shape.output_pixels() * self.shape.c_out];
        packed.forward(Team::solo(), N, source, epilogue, &mut ViewMut::dense(&mut y, self.shape.c_out));
        y
    }

    /// Records the gradients of the weights. Returns the gradient of the (normalised) input.
    fn backward(&self, layer: &mut Layer<'_>, source: Source<'_>, dy: &[f32]) -> Vec<f32> {
        let Way { isa, .. } = layer.way;
        let team = Team::solo();
        let dy = View::dense(dy, self.shape.c_out);
        let mut gradients: Vec<[Vec<f32>; 2]> =
            self.parts.iter().map(|part| part.each_ref().map(|w| vec![0.0; w.len()])).collect();
        let mut into: Vec<(&mut [f32], &mut [f32])> =
            gradients.iter_mut().map(|[dw, db]| (&mut dw[..], &mut db[..])).collect();
        conv::backward_weights(
            &self.shape,
            layer.way.of(&self.shape),
            conv::Precision::Single,
            isa,
            team,
            N,
            source,
            dy,
            &mut into,
        );
        for (names, gradients) in self.names.iter().zip(gradients) {
            names.iter().zip(gradients).for_each(|(name, gradient)| layer.found(name, gradient));
        }
        let mut transpose = conv::Layer::transpose(isa, self.shape, |shape| layer.way.of(shape));
        transpose.repack_transposed(team, &self.parts.iter().map(|[w, _]| &w[..]).collect::<Vec<_>>());
        let mut dx = vec![0.0; N * self.shape.input_pixels() * self.shape.c_in];
        let to = &mut ViewMut::dense(&mut dx, self.shape.c_in);
        conv::backward_data(&transpose, &self.shape, team, N, dy, to, false);
        dx
    }
}

/// A group normalisation with weights `key.weight` and `key.bias`.
struct Norm {
    prefix: String,
    shape: norm::Shape,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    ab: Vec<f32>,
    statistics: Vec<f32>,
}

impl Norm {
    fn new(layer: &Layer<'_>, case: &Value, key: &str, pixels: usize, silu: bool) -> Self {
        let prefix = if key.is_empty() { String::new() } else { format!("{key}.") };
        let gamma = layer.weight(&format!("{prefix}weight"));
        let beta = layer.weight(&format!("{prefix}bias"));
        let groups = case["groups"].as_u64().unwrap() as usize;
        let eps = case["eps"].as_f64().unwrap() as f32;
        let shape = norm::Shape { channels: gamma.len(), pixels, groups, eps, silu };
        let (ab, statistics) = (vec![0.0; N * 2 * gamma.len()], vec![0.0; N * groups * 2]);
        Self { prefix, shape, gamma, beta, ab, statistics }
    }

    fn affine<'a>(&'a self, scale_shift: Option<&'a [f32]>) -> norm::Affine<'a> {
        let scale_shift = scale_shift.map(|v| View::dense(v, 2 * self.shape.channels));
        norm::Affine { gamma: &self.gamma, beta: &self.beta, scale_shift }
    }

    /// Computes the coefficients for `x`.
    fn look_at(&mut self, layer: &Layer<'_>, x: &[f32], scale_shift: Option<&[f32]>) {
        let (mut ab, mut statistics) = (std::mem::take(&mut self.ab), std::mem::take(&mut self.statistics));
        let (isa, team, view) = (layer.way.isa, Team::solo(), View::dense(x, self.shape.channels));
        norm::coefficients(&self.shape, isa, team, N, view, self.affine(scale_shift), &mut ab, &mut statistics);
        (self.ab, self.statistics) = (ab, statistics);
    }

    fn apply(&self, layer: &Layer<'_>, x: &[f32]) -> Vec<f32> {
        let channels = self.shape.channels;
        let mut y = vec![0.0; x.len()];
        let to = &mut ViewMut::dense(&mut y, channels);
        norm::apply(&self.shape, layer.way.isa, Team::solo(), N, View::dense(x, channels), &self.ab, to);
        y
    }

    /// `x` as the input of a convolution that normalises it.
    fn source<'a>(&'a self, x: &'a [f32]) -> Source<'a> {
        let norm = conv::Norm { ab: &self.ab, silu: self.shape.silu };
        Source { x: View::dense(x, self.shape.channels), norm: Some(norm) }
    }

    /// Records the gradients of the weights. Adds the gradient of the input to `dx`.
    fn backward(
        &self,
        layer: &mut Layer<'_>,
        x: &[f32],
        scale_shift: Option<&[f32]>,
        dscale_shift: Option<&mut [f32]>,
        mut dy: Vec<f32>,
        dx: &mut [f32],
    ) {
        let channels = self.shape.channels;
        let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
        let gradients = norm::Gradients {
            dx: &mut ViewMut::dense(dx, channels),
            accumulate: true,
            dgamma: &mut dgamma,
            dbeta: &mut dbeta,
            dscale_shift,
        };
        let (isa, team, x, affine) = (layer.way.isa, Team::solo(), View::dense(x, channels), self.affine(scale_shift));
        norm::backward(&self.shape, isa, team, N, x, affine, &self.ab, &self.statistics, &mut dy, gradients);
        layer.found(&format!("{}weight", self.prefix), dgamma);
        layer.found(&format!("{}bias", self.prefix), dbeta);
    }
}

fn linear_layer(layer: &Layer<'_>, key: &str, n: usize, x: &[f32]) -> Vec<f32> {
    let (w, b) = (layer.weight(&format!("{key}.weight")), layer.weight(&format!("{key}.bias")));
    let mut y = vec![0.0; n * b.len()];
    let (inputs, outputs) = (x.len() / n, b.len());
    let to = &mut ViewMut::dense(&mut y, outputs);
    linear::forward(layer.way.isa, Team::solo(), n, inputs, View::dense(x, inputs), &w, &b, to);
    y
}

fn linear_backward(layer: &mut Layer<'_>, key: &str, n: usize, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let w = layer.weight(&format!("{key}.weight"));
    let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; dy.len() / n]);
    let into = linear::Gradients { dx: &mut dx, dw: &mut dw, db: &mut db };
    let inputs = x.len() / n;
    linear::backward(layer.way.isa, Team::solo(), n, inputs, View::dense(x, inputs), &w, dy, into);
    layer.found(&format!("{key}.weight"), dw);
    layer.found(&format!("{key}.bias"), db);
    dx
}

fn silu(layer: &Layer<'_>, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    elementwise::silu(layer.way.isa, x, &mut y);
    y
}

fn silu_backward(layer: &Layer<'_>, x: &[f32], mut dy: Vec<f32>) -> Vec<f32> {
    elementwise::silu_backward(layer.way.isa, x, &mut dy);
    dy
}

/// How a residual block changes the size of its image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resize {
    Keep,
    Halve,
    Double,
}

impl Resize {
    /// `size` is the size of the input.
    fn forward(self, layer: &Layer<'_>, [height, width]: [usize; 2], channels: usize, x: &[f32]) -> Vec<f32> {
        match self {
            Self::Keep => x.to_vec(),
            Self::Halve => {
                let mut y = vec![0.0; x.len() / 4];
                let (half, to) = ([height / 2, width / 2], &mut ViewMut::dense(&mut y, channels));
                elementwise::average_pool(Team::solo(), layer.way.isa, N, half, channels, View::dense(x, channels), to);
                y
            }
            // Only convolutions upsample on their own; here images are stacked vertically.
            Self::Double => (0..4 * N * height * width)
                .flat_map(|pixel| {
                    let (row, column) = (pixel / (2 * width), pixel % (2 * width));
                    x[(row / 2 * width + column / 2) * channels..][..channels].iter().copied()
                })
                .collect(),
        }
    }

    fn backward(self, layer: &Layer<'_>, [height, width]: [usize; 2], channels: usize, dy: &[f32]) -> Vec<f32> {
        let (isa, team) = (layer.way.isa, Team::solo());
        let mut dx = vec![0.0; N * height * width * channels];
        let to = &mut ViewMut::dense(&mut dx, channels);
        match self {
            Self::Keep => return dy.to_vec(),
            Self::Halve => {
                let (half, dy) = ([height / 2, width / 2], View::dense(dy, channels));
                elementwise::average_pool_backward(team, isa, N, half, channels, dy, to, false);
            }
            Self::Double => {
                let dy = View::dense(dy, channels);
                elementwise::upsample_backward(team, isa, N, [height, width], channels, dy, to, false);
            }
        }
        dx
    }
}

fn size_of(layer: &Layer<'_>) -> [usize; 2] {
    let x = &layer.tensor("x").shape;
    [x[2], x[3]]
}

fn resnet(layer: &mut Layer<'_>, case: &Value) -> Vec<f32> {
    let (x, temb, dy) = (layer.pixels("x"), layer.values("temb"), layer.pixels("dy"));
    let (size, c_in) = (size_of(layer), layer.tensor("x").shape[1]);
    let (resize, inner) = match (case["down"] == true, case["up"] == true) {
        (true, _) => (Resize::Halve, size.map(|size| size / 2)),
        (_, true) => (Resize::Double, size.map(|size| 2 * size)),
        _ => (Resize::Keep, size),
    };
    // Downsampling precedes the convolution, upsampling happens while it reads.
    let (read, double) = if resize == Resize::Halve { (inner, false) } else { (size, resize == Resize::Double) };
    let pixels = inner[0] * inner[1];
    let scale = (1.0 / case["output_scale_factor"].as_f64().unwrap_or(1.0)) as f32;
    let scale_shift = case["scale_shift"] == true;

    let mut norm1 = Norm::new(layer, case, "norm1", size[0] * size[1], true);
    let mut norm2 = Norm::new(layer, case, "norm2", pixels, true);
    let conv1 = Conv::new(layer, &["conv1"], read, 1, [1, 1], double);
    let conv2 = Conv::new(layer, &["conv2"], inner, 1, [1, 1], false);
    let shortcut =
        layer.has("weight/conv_shortcut.weight").then(|| Conv::new(layer, &["conv_shortcut"], read, 1, [0, 0], double));
    let channels = conv1.shape.c_out;

    norm1.look_at(layer, &x, None);
    let halved = (resize == Resize::Halve).then(|| resize.forward(layer, size, c_in, &norm1.apply(layer, &x)));
    let source1 = match &halved {
        Some(halved) => Source::plain(View::dense(halved, c_in)),
        None => norm1.source(&x),
    };
    let activated = silu(layer, &temb);
    let time = linear_layer(layer, "time_emb_proj", N, &activated);
    let vector = (!scale_shift).then(|| View::dense(&time, channels));
    let b = conv1.forward(layer, source1, Epilogue { vector, ..Epilogue::default() });
    let modulation = scale_shift.then_some(&time[..]);
    norm2.look_at(layer, &b, modulation);
    let source2 = norm2.source(&b);
    let skip = if double && shortcut.is_some() { x.clone() } else { resize.forward(layer, size, c_in, &x) };
    let skip_source = Source::plain(View::dense(&skip, c_in));
    let residual =
        shortcut.as_ref().map_or_else(|| skip.clone(), |s| s.forward(layer, skip_source, Epilogue::default()));
    let epilogue = Epilogue { residual: Some(View::dense(&residual, channels)), scale, ..Epilogue::default() };
    let y = conv2.forward(layer, source2, epilogue);

    let dsum: Vec<f32> = dy.iter().map(|v| v * scale).collect();
    let dc = conv2.backward(layer, source2, &dsum);
    let (mut dtime, mut db) = (vec![0.0; time.len()], vec![0.0; b.len()]);
    norm2.backward(layer, &b, modulation, scale_shift.then_some(&mut dtime[..]), dc, &mut db);
    if !scale_shift {
        for (pixel, db) in db.chunks_exact(channels).enumerate() {
            let dtime = &mut dtime[pixel / pixels * channels..][..channels];
            dtime.iter_mut().zip(db).for_each(|(dtime, db)| *dtime += db);
        }
    }
    let dactivated = linear_backward(layer, "time_emb_proj", N, &activated, &dtime);
    let dtemb = silu_backward(layer, &temb, dactivated);
    layer.found("temb", dtemb);
    let mut da = conv1.backward(layer, source1, &db);
    if resize == Resize::Halve {
        da = resize.backward(layer, size, c_in, &da);
    }
    let mut dx = match shortcut {
        Some(shortcut) if resize == Resize::Halve => {
            let dskip = shortcut.backward(layer, skip_source, &dsum);
            resize.backward(layer, size, c_in, &dskip)
        }
        Some(shortcut) => shortcut.backward(layer, skip_source, &dsum),
        None => resize.backward(layer, size, c_in, &dsum),
    };
    norm1.backward(layer, &x, None, None, da, &mut dx);
    layer.found_pixels("x", &dx);
    planes(channels, &y)
}

fn attention_layer(layer: &mut Layer<'_>, case: &Value) -> Vec<f32> {
    let (x, dy) = (layer.pixels("x"), layer.pixels("dy"));
    let size = size_of(layer);
    let (channels, pixels) = (layer.tensor("x").shape[1], size[0] * size[1]);
    let shape = attention::Shape { channels, heads: case["heads"].as_u64().unwrap() as usize, pixels };
    let mut norm = case["groups"].is_u64().then(|| Norm::new(layer, case, "group_norm", pixels, false));
    let project = Conv::new(layer, &["to_q", "to_k", "to_v"], size, 1, [0, 0], false);
    let out = Conv::new(layer, &["to_out.0"], size, 1, [0, 0], false);
    let (isa, team) = (layer.way.isa, Team::solo());

    if let Some(norm) = &mut norm {
        norm.look_at(layer, &x, None);
    }
    let plain = Source::plain(View::dense(&x, channels));
    let source = norm.as_ref().map_or(plain, |norm| norm.source(&x));
    let qkv = project.forward(layer, source, Epilogue::default());
    let mut a = vec![0.0; x.len()];
    let qkv_view = View::dense(&qkv, 3 * channels);
    attention::forward(&shape, isa, false, team, N, qkv_view, &mut ViewMut::dense(&mut a, channels));
    let a_source = Source::plain(View::dense(&a, channels));
    let epilogue = Epilogue { residual: Some(View::dense(&x, channels)), ..Epilogue::default() };
    let y = out.forward(layer, a_source, epilogue);

    let da = out.backward(layer, a_source, &dy);
    let mut dqkv = vec![0.0; qkv.len()];
    let to = &mut ViewMut::dense(&mut dqkv, 3 * channels);
    attention::backward(&shape, isa, team, N, qkv_view, View::dense(&da, channels), to);
    let dh = project.backward(layer, source, &dqkv);
    let mut dx = dy;
    match &norm {
        Some(norm) => norm.backward(layer, &x, None, None, dh, &mut dx),
        None => elementwise::axpy(isa, team, 1.0, &dh, &mut dx),
    }
    layer.found_pixels("x", &dx);
    planes(channels, &y)
}

fn convolution(layer: &mut Layer<'_>, key: &str, stride: usize, pads: [usize; 2], upsample: bool) -> Vec<f32> {
    let (x, dy) = (layer.pixels("x"), layer.pixels("dy"));
    let conv = Conv::new(layer, &[key], size_of(layer), stride, pads, upsample);
    let source = Source::plain(View::dense(&x, conv.shape.c_in));
    let dx = conv.backward(layer, source, &dy);
    layer.found_pixels("x", &dx);
    planes(conv.shape.c_out, &conv.forward(layer, source, Epilogue::default()))
}

fn group_norm(layer: &mut Layer<'_>, case: &Value) -> Vec<f32> {
    let (x, dy, size) = (layer.pixels("x"), layer.pixels("dy"), size_of(layer));
    let mut norm = Norm::new(layer, case, "", size[0] * size[1], false);
    norm.look_at(layer, &x, None);
    let y = norm.apply(layer, &x);
    let mut dx = vec![0.0; x.len()];
    norm.backward(layer, &x, None, None, dy, &mut dx);
    layer.found_pixels("x", &dx);
    planes(norm.shape.channels, &y)
}

fn time_mlp(layer: &mut Layer<'_>) -> Vec<f32> {
    let (x, dy, n) = (layer.values("x"), layer.values("dy"), layer.tensor("x").shape[0]);
    let hidden = linear_layer(layer, "linear_1", n, &x);
    let activated = silu(layer, &hidden);
    let y = linear_layer(layer, "linear_2", n, &activated);
    let dactivated = linear_backward(layer, "linear_2", n, &activated, &dy);
    let dhidden = silu_backward(layer, &hidden, dactivated);
    let dx = linear_backward(layer, "linear_1", n, &x, &dhidden);
    layer.found("x", dx);
    y
}

#[test]
fn every_layer_and_its_gradients_are_pytorchs() {
    let tensors = golden::tensors("blocks.safetensors");
    let cases = golden::cases("blocks.json");
    assert_eq!(cases.len(), 16);
    let algorithms = [Algorithm::Direct, Algorithm::Winograd2, Algorithm::Winograd4];
    let ways = Isa::available().into_iter().flat_map(|isa| algorithms.map(|algorithm| Way { isa, algorithm }));
    for (way, case) in ways.flat_map(|way| cases.iter().map(move |case| (way, case))) {
        let name = case["name"].as_str().unwrap().to_owned();
        let mut layer = Layer { name, way, tensors: &tensors, gradients: HashMap::new() };
        let y = match case["kind"].as_str().unwrap() {
            "resnet" => resnet(&mut layer, case),
            "attention" => attention_layer(&mut layer, case),
            "downsample" => {
                let before = case["padding"].as_u64().unwrap() as usize;
                convolution(&mut layer, "conv", 2, [before, 1], false)
            }
            "upsample" => convolution(&mut layer, "conv", 1, [1, 1], true),
            "conv3" => convolution(&mut layer, "", 1, [1, 1], false),
            "group_norm" => group_norm(&mut layer, case),
            "time_mlp" => time_mlp(&mut layer),
            other => panic!("unknown kind {other}"),
        };
        layer.check(&y);
    }
}
