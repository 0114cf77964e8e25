//! Single layers out of the kernels, forward and backward, against PyTorch with diffusers (golden/README.md).
//!
//! The layers are put together here once more, so that a mistake of the network's graph and one of a kernel show apart.

mod golden;

use std::collections::HashMap;

use golden::Tensor;
use serde_json::Value;
use skipstone_kernels::{Threads, attention, conv, elementwise, linear, norm};

/// A layer of the file: its tensors, and the gradients found so far.
struct Layer {
    name: String,
    tensors: HashMap<String, Tensor>,
    gradients: HashMap<String, Vec<f32>>,
}

impl Layer {
    fn shape(&self, key: &str) -> &[usize] {
        &self.tensors[&format!("{}/{key}", self.name)].shape
    }

    fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(&format!("{}/{key}", self.name))
    }

    fn values(&self, key: &str) -> Vec<f32> {
        self.tensors[&format!("{}/{key}", self.name)].f32()
    }

    fn weight(&self, key: &str) -> Vec<f32> {
        self.values(&format!("weight/{key}"))
    }

    fn found(&mut self, key: &str, gradient: Vec<f32>) {
        assert!(self.gradients.insert(key.to_owned(), gradient).is_none(), "{}: {key} twice", self.name);
    }

    /// Compares the output and every gradient in the file with what was found.
    fn check(&self, y: &[f32]) {
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let expected = &self.tensors[&format!("{}/y", self.name)].values;
        let difference = golden::relative(y.iter().map(|&v| f64::from(v)), expected);
        assert!(difference < 2e-6, "{}: y: relative difference {difference:e}", self.name);
        let prefix = format!("{}/grad/", self.name);
        let mut compared = 0;
        for (key, expected) in self.tensors.iter().filter_map(|(key, t)| Some((key.strip_prefix(&prefix)?, t))) {
            let found = self.gradients.get(key).unwrap_or_else(|| panic!("{}: no gradient of {key}", self.name));
            assert_eq!(found.len(), expected.values.len(), "{}: {key}", self.name);
            let error = norm(&mut found.iter().zip(&expected.values).map(|(a, b)| f64::from(*a) - b));
            let scale = norm(&mut expected.values.iter().copied());
            // Softmax does not see a constant: the bias of the keys has no gradient but rounding.
            let floor = if key == "to_k.bias" { 1e-5 } else { 0.0 };
            assert!(error <= 1e-5 * scale + floor, "{}: {key}: off by {error:e}, norm {scale:e}", self.name);
            compared += 1;
        }
        assert_eq!(compared, self.gradients.len(), "{}: a gradient that PyTorch does not have", self.name);
    }
}

/// A convolution with its weights under `key.weight` and `key.bias`.
struct Conv {
    key: String,
    shape: conv::Shape,
    w: Vec<f32>,
    b: Vec<f32>,
}

const N: usize = 2;

impl Conv {
    fn new(layer: &Layer, key: &str, input: [usize; 2], stride: usize, [pad_before, pad_after]: [usize; 2]) -> Self {
        let name = |leaf: &str| if key.is_empty() { leaf.to_owned() } else { format!("{key}.{leaf}") };
        let weight = layer.shape(&format!("weight/{}", name("weight")));
        let kernel = weight.get(2).copied().unwrap_or(1);
        let shape = conv::Shape { c_in: weight[1], c_out: weight[0], input, kernel, stride, pad_before, pad_after };
        Self { key: key.to_owned(), shape, w: layer.weight(&name("weight")), b: layer.weight(&name("bias")) }
    }

    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; N * self.shape.output_len()];
        conv::forward(&self.shape, N, x, &self.w, &self.b, &mut y, Threads::One);
        y
    }

    /// Reports the gradients of the weights; returns that of the input.
    fn backward(&self, layer: &mut Layer, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let (mut dw, mut db) = (vec![0.0; self.w.len()], vec![0.0; self.b.len()]);
        conv::backward_weights(&self.shape, N, x, dy, &mut dw, &mut db);
        let prefix = if self.key.is_empty() { String::new() } else { format!("{}.", self.key) };
        layer.found(&format!("{prefix}weight"), dw);
        layer.found(&format!("{prefix}bias"), db);
        let mut dx = vec![0.0; x.len()];
        conv::backward_data(&self.shape, N, dy, &self.w, &mut dx);
        dx
    }
}

/// A group normalisation with its weights under `key.weight` and `key.bias`.
struct Norm {
    prefix: String,
    shape: norm::Shape,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    statistics: Vec<f32>,
}

impl Norm {
    fn new(layer: &Layer, case: &Value, key: &str, pixels: usize, silu: bool) -> Self {
        let prefix = if key.is_empty() { String::new() } else { format!("{key}.") };
        let gamma = layer.weight(&format!("{prefix}weight"));
        let beta = layer.weight(&format!("{prefix}bias"));
        let groups = case["groups"].as_u64().unwrap() as usize;
        let eps = case["eps"].as_f64().unwrap() as f32;
        let shape = norm::Shape { channels: gamma.len(), pixels, groups, eps, silu };
        Self { prefix, shape, gamma, beta, statistics: vec![0.0; N * groups * 2] }
    }

    fn forward(&mut self, x: &[f32], scale_shift: Option<&[f32]>) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let affine = norm::Affine { gamma: &self.gamma, beta: &self.beta, scale_shift };
        norm::forward(&self.shape, N, x, affine, &mut y, &mut self.statistics, Threads::One);
        y
    }

    fn backward(
        &self,
        layer: &mut Layer,
        x: &[f32],
        scale_shift: Option<&[f32]>,
        dscale_shift: Option<&mut [f32]>,
        dy: &[f32],
    ) -> Vec<f32> {
        let mut dx = vec![0.0; x.len()];
        let (mut dgamma, mut dbeta) = (vec![0.0; self.gamma.len()], vec![0.0; self.beta.len()]);
        let affine = norm::Affine { gamma: &self.gamma, beta: &self.beta, scale_shift };
        let gradients = norm::Gradients { dx: &mut dx, dgamma: &mut dgamma, dbeta: &mut dbeta, dscale_shift };
        norm::backward(&self.shape, N, x, affine, &self.statistics, dy, gradients);
        layer.found(&format!("{}weight", self.prefix), dgamma);
        layer.found(&format!("{}bias", self.prefix), dbeta);
        dx
    }
}

fn linear_layer(layer: &Layer, key: &str, n: usize, x: &[f32]) -> Vec<f32> {
    let (w, b) = (layer.weight(&format!("{key}.weight")), layer.weight(&format!("{key}.bias")));
    let mut y = vec![0.0; n * b.len()];
    linear::forward(n, x, &w, &b, &mut y);
    y
}

fn linear_backward(layer: &mut Layer, key: &str, n: usize, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let w = layer.weight(&format!("{key}.weight"));
    let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; dy.len() / n]);
    linear::backward(n, x, &w, dy, &mut dx, &mut dw, &mut db);
    layer.found(&format!("{key}.weight"), dw);
    layer.found(&format!("{key}.bias"), db);
    dx
}

fn silu(x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    elementwise::silu(x, &mut y);
    y
}

fn silu_backward(x: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut dx = vec![0.0; x.len()];
    elementwise::silu_backward(x, dy, &mut dx);
    dx
}

/// What a residual block does to the size of its image.
#[derive(Clone, Copy)]
enum Resize {
    Keep,
    Halve,
    Double,
}

impl Resize {
    fn size(self, [height, width]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Keep => [height, width],
            Self::Halve => [height / 2, width / 2],
            Self::Double => [2 * height, 2 * width],
        }
    }

    /// `width` is the input's.
    fn forward(self, width: usize, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; [x.len(), x.len() / 4, 4 * x.len()][self as usize]];
        match self {
            Self::Keep => y.copy_from_slice(x),
            Self::Halve => elementwise::average_pool(width / 2, x, &mut y),
            Self::Double => elementwise::upsample(width, x, &mut y),
        }
        y
    }

    fn backward(self, width: usize, dy: &[f32]) -> Vec<f32> {
        let mut dx = vec![0.0; [dy.len(), 4 * dy.len(), dy.len() / 4][self as usize]];
        match self {
            Self::Keep => dx.copy_from_slice(dy),
            Self::Halve => elementwise::average_pool_backward(width / 2, dy, &mut dx),
            Self::Double => elementwise::upsample_backward(width, dy, &mut dx),
        }
        dx
    }
}

fn size_of(layer: &Layer) -> [usize; 2] {
    let x = layer.shape("x");
    [x[2], x[3]]
}

fn resnet(layer: &mut Layer, case: &Value) -> Vec<f32> {
    let (x, temb, dy) = (layer.values("x"), layer.values("temb"), layer.values("dy"));
    let size = size_of(layer);
    let resize = match (case["down"] == true, case["up"] == true) {
        (true, _) => Resize::Halve,
        (_, true) => Resize::Double,
        _ => Resize::Keep,
    };
    let inner = resize.size(size);
    let (width, pixels) = (size[1], inner[0] * inner[1]);
    let scale = (1.0 / case["output_scale_factor"].as_f64().unwrap_or(1.0)) as f32;
    let scale_shift = case["scale_shift"] == true;

    let mut norm1 = Norm::new(layer, case, "norm1", size[0] * size[1], true);
    let mut norm2 = Norm::new(layer, case, "norm2", pixels, true);
    let conv1 = Conv::new(layer, "conv1", inner, 1, [1, 1]);
    let conv2 = Conv::new(layer, "conv2", inner, 1, [1, 1]);
    let shortcut =
        layer.has("weight/conv_shortcut.weight").then(|| Conv::new(layer, "conv_shortcut", inner, 1, [0, 0]));

    let a = resize.forward(width, &norm1.forward(&x, None));
    let mut b = conv1.forward(&a);
    let activated = silu(&temb);
    let time = linear_layer(layer, "time_emb_proj", N, &activated);
    if !scale_shift {
        let before = b.clone();
        elementwise::add_per_plane(pixels, &before, &time, &mut b);
    }
    let modulation = scale_shift.then_some(&time[..]);
    let c = norm2.forward(&b, modulation);
    let d = conv2.forward(&c);
    let skip = resize.forward(width, &x);
    let residual = shortcut.as_ref().map_or_else(|| skip.clone(), |s| s.forward(&skip));
    let mut y = vec![0.0; d.len()];
    elementwise::add(&d, &residual, scale, &mut y);

    let dsum: Vec<f32> = dy.iter().map(|v| v * scale).collect();
    let dc = conv2.backward(layer, &c, &dsum);
    let mut dtime = vec![0.0; time.len()];
    let db = norm2.backward(layer, &b, modulation, scale_shift.then_some(&mut dtime[..]), &dc);
    if !scale_shift {
        elementwise::add_per_plane_backward(pixels, &db, &mut dtime);
    }
    let dactivated = linear_backward(layer, "time_emb_proj", N, &activated, &dtime);
    layer.found("temb", silu_backward(&temb, &dactivated));
    let da = resize.backward(width, &conv1.backward(layer, &a, &db));
    let mut dx = norm1.backward(layer, &x, None, None, &da);
    let dskip = shortcut.map_or_else(|| dsum.clone(), |s| s.backward(layer, &skip, &dsum));
    elementwise::axpy(1.0, &resize.backward(width, &dskip), &mut dx);
    layer.found("x", dx);
    y
}

fn attention_layer(layer: &mut Layer, case: &Value) -> Vec<f32> {
    let (x, dy) = (layer.values("x"), layer.values("dy"));
    let size = size_of(layer);
    let (channels, pixels) = (layer.shape("x")[1], size[0] * size[1]);
    let shape = attention::Shape { channels, heads: case["heads"].as_u64().unwrap() as usize, pixels };
    let mut norm = case["groups"].is_u64().then(|| Norm::new(layer, case, "group_norm", pixels, false));
    let projections = ["to_q", "to_k", "to_v"].map(|key| Conv::new(layer, key, size, 1, [0, 0]));
    let out = Conv::new(layer, "to_out.0", size, 1, [0, 0]);

    let h = norm.as_mut().map_or_else(|| x.clone(), |n| n.forward(&x, None));
    let [q, k, v] = projections.each_ref().map(|p| p.forward(&h));
    let mut a = vec![0.0; x.len()];
    attention::forward(&shape, N, &q, &k, &v, &mut a, Threads::One);
    let o = out.forward(&a);
    let mut y = vec![0.0; x.len()];
    elementwise::add(&o, &x, 1.0, &mut y);

    let da = out.backward(layer, &a, &dy);
    let [mut dq, mut dk, mut dv] = [0; 3].map(|_| vec![0.0; x.len()]);
    attention::backward(&shape, N, &q, &k, &v, &da, &mut dq, &mut dk, &mut dv);
    let mut dh = vec![0.0; x.len()];
    for (projection, gradient) in projections.iter().zip([dq, dk, dv]) {
        elementwise::axpy(1.0, &projection.backward(layer, &h, &gradient), &mut dh);
    }
    let mut dx = norm.map_or_else(|| dh.clone(), |n| n.backward(layer, &x, None, None, &dh));
    elementwise::axpy(1.0, &dy, &mut dx);
    layer.found("x", dx);
    y
}

/// A convolution after `resize`.
fn convolution(layer: &mut Layer, key: &str, resize: Resize, stride: usize, pads: [usize; 2]) -> Vec<f32> {
    let (x, dy, size) = (layer.values("x"), layer.values("dy"), size_of(layer));
    let conv = Conv::new(layer, key, resize.size(size), stride, pads);
    let h = resize.forward(size[1], &x);
    let dh = conv.backward(layer, &h, &dy);
    layer.found("x", resize.backward(size[1], &dh));
    conv.forward(&h)
}

fn group_norm(layer: &mut Layer, case: &Value) -> Vec<f32> {
    let (x, dy, size) = (layer.values("x"), layer.values("dy"), size_of(layer));
    let mut norm = Norm::new(layer, case, "", size[0] * size[1], false);
    let y = norm.forward(&x, None);
    let dx = norm.backward(layer, &x, None, None, &dy);
    layer.found("x", dx);
    y
}

fn time_mlp(layer: &mut Layer) -> Vec<f32> {
    let (x, dy, n) = (layer.values("x"), layer.values("dy"), layer.shape("x")[0]);
    let hidden = linear_layer(layer, "linear_1", n, &x);
    let activated = silu(&hidden);
    let y = linear_layer(layer, "linear_2", n, &activated);
    let dactivated = linear_backward(layer, "linear_2", n, &activated, &dy);
    let dx = linear_backward(layer, "linear_1", n, &x, &silu_backward(&hidden, &dactivated));
    layer.found("x", dx);
    y
}

#[test]
fn every_layer_and_its_gradients_are_pytorchs() {
    let tensors = golden::tensors("blocks.safetensors");
    let cases = golden::cases("blocks.json");
    assert_eq!(cases.len(), 16);
    for case in &cases {
        let name = case["name"].as_str().unwrap().to_owned();
        let mut layer = Layer { name, tensors: tensors.clone(), gradients: HashMap::new() };
        let y = match case["kind"].as_str().unwrap() {
            "resnet" => resnet(&mut layer, case),
            "attention" => attention_layer(&mut layer, case),
            "downsample" => {
                let before = case["padding"].as_u64().unwrap() as usize;
                convolution(&mut layer, "conv", Resize::Keep, 2, [before, 1])
            }
            "upsample" => convolution(&mut layer, "conv", Resize::Double, 1, [1, 1]),
            "conv3" => convolution(&mut layer, "", Resize::Keep, 1, [1, 1]),
            "group_norm" => group_norm(&mut layer, case),
            "time_mlp" => time_mlp(&mut layer),
            other => panic!("unknown kind {other}"),
        };
        layer.check(&y);
    }
}
