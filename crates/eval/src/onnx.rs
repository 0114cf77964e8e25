//! Feature networks from ONNX files, run by rten.
//!
//! The network gets one image at a time, `[1, channels, height, width]`, with **values in 0..1**. Any other preprocessing
//! (size, range, mean, deviation) belongs in its graph, so that the file alone defines the features.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array2, ArrayView3, ArrayView4};
use rten::{Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::{NdTensor, prelude::*};
use sha2::{Digest, Sha256};
use skipstone::error::{Error, Kind, Result};
use skipstone::io::files;
use skipstone::io::hex::hex;
use skipstone_onnx::guarded;
use skipstone_onnx::scan::Outline;

use super::features::FeatureNetwork;
use super::resize::bilinear;

/// Most bytes of a file. The format itself is limited to 2 GiB.
const MAX_BYTES: u64 = 2 << 30;
/// Most rows or columns of an input.
const MOST_SIDE: usize = 4096;
/// Most features: a covariance of more would not fit into memory.
const MOST_DIMENSIONS: usize = 8192;
/// Most channels of its input.
const MOST_CHANNELS: usize = 1024;
/// Most numbers of an image.
const MOST_NUMBERS: usize = 1 << 26;
/// Side of the image on which a network without a stated size is tried.
const TRIAL: usize = 64;

/// A value of an ONNX network.
pub struct OnnxFeatures {
    name: String,
    model: Model,
    input: NodeId,
    output: NodeId,
    channels: usize,
    /// The size that its graph states, if any.
    size: Option<[usize; 2]>,
    dimensions: usize,
    threads: Arc<ThreadPool>,
}

impl std::fmt::Debug for OnnxFeatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxFeatures").field("name", &self.name).finish_non_exhaustive()
    }
}

impl OnnxFeatures {
    /// Opens the value `output` of the network in `path`: `[1, d]`, or `[1, d, 1, 1]` as after global pooling.
    ///
    /// The input must be `[n, channels, height, width]` with n = 1 or free. If height and width are stated, images are resized
    /// (bilinear, with pixel centres at halves and no smoothing, as PyTorch's `interpolate` does by default). If they are
    /// free, images keep their size. Gray images are repeated for three channels.
    ///
    /// The network's name consists of the file's name, the value's name and the beginning of the file's SHA-256.
    ///
    /// # Errors
    /// The file is missing or cannot be run, there is no such value, or the input has another form.
    pub fn open(path: &Path, output: &str) -> Result<Self> {
        let bytes = files::read(path, MAX_BYTES)?;
        let hash = hex(&Sha256::digest(&bytes)[..4]);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{stem}:{output} (onnx {hash})");
        Self::from_bytes(name, bytes, output).map_err(|e| e.in_file(path))
    }

    fn from_bytes(name: String, bytes: Vec<u8>, output: &str) -> Result<Self> {
        // rten allocates what the file's lengths say.
        Outline::scan(Cursor::new(&bytes), bytes.len() as u64)?;
        let (model, output) = load(bytes, output)?;
        let &[input] = model.input_ids() else {
            let message = format!("a network of {} inputs; expected one, the image", model.input_ids().len());
            return Err(Error::unsupported(message));
        };
        let shape = model.input_shape(0).unwrap_or_default();
        let fixed = |d: &Dimension| if let Dimension::Fixed(size) = d { Some(*size) } else { None };
        let wrong = || {
            let shown: Vec<String> = shape.iter().map(|d| fixed(d).map_or("?".to_owned(), |n| n.to_string())).collect();
            let shown = shown.join(", ");
            Error::unsupported(format!(
                "an input of [{shown}]; expected [n, channels, height, width] with n = 1 or free"
            ))
        };
        let [batch, channels, height, width] = shape.as_slice() else { return Err(wrong()) };
        let channels = fixed(channels).unwrap_or(3);
        if fixed(batch).is_some_and(|n| n != 1) || !(1..=MOST_CHANNELS).contains(&channels) {
            return Err(wrong());
        }
        let size = match (fixed(height), fixed(width)) {
            (Some(height @ 1..=MOST_SIDE), Some(width @ 1..=MOST_SIDE)) => Some([height, width]),
            (None, None) => None,
            _ => return Err(wrong()),
        };
        let threads = Arc::new(ThreadPool::with_num_threads(rayon::current_num_threads()));
        let mut network = Self { name, model, input, output, channels, size, dimensions: 0, threads };
        let [height, width] = size.unwrap_or([TRIAL; 2]);
        if channels * height * width > MOST_NUMBERS {
            let message = format!("an input of {channels}×{height}×{width} numbers; expected at most {MOST_NUMBERS}");
            return Err(Error::unsupported(message));
        }
        network.dimensions = network.run(vec![0.5; channels * height * width], [height, width])?.len();
        if !(1..=MOST_DIMENSIONS).contains(&network.dimensions) {
            let (name, found) = (&network.name, network.dimensions);
            return Err(Error::unsupported(format!("{name}: {found} features; expected 1 to {MOST_DIMENSIONS}")));
        }
        Ok(network)
    }

    /// The features of one image of the network's channels.
    fn run(&self, values: Vec<f32>, [height, width]: [usize; 2]) -> Result<Vec<f32>> {
        let image = NdTensor::from_data([1, self.channels, height, width], values);
        let mut options = RunOptions::default();
        options.thread_pool = Some(self.threads.clone());
        let failed = |e: rten::RunError| Error::unsupported(format!("{}: cannot be run: {e}", self.name)).caused_by(e);
        let run = || self.model.run(vec![(self.input, image.into())], &[self.output], Some(options));
        let found = guarded(run)?.map_err(failed)?;
        match found.into_iter().next() {
            Some(Value::FloatTensor(features)) => {
                let shape = features.shape().to_vec();
                if shape.first() == Some(&1) && shape.iter().filter(|&&d| d != 1).count() <= 1 {
                    return Ok(features.into_data());
                }
                let expected = "expected one row of numbers, [1, d] or [1, d, 1, 1]";
                Err(Error::unsupported(format!("{}: its value is {shape:?}; {expected}", self.name)))
            }
            _ => Err(Error::unsupported(format!("{}: its value is not of float32 numbers", self.name))),
        }
    }

    /// An image as the network takes it.
    fn prepared(&self, image: ArrayView3<'_, f32>) -> Result<(Vec<f32>, [usize; 2])> {
        let (c, h, w) = image.dim();
        if c != self.channels && (c, self.channels) != (1, 3) {
            let (name, expected) = (&self.name, self.channels);
            let gray = if expected == 3 { " or 1" } else { "" };
            return Err(Error::argument(format!("{name}: expected images of {expected} channels{gray}, found {c}")));
        }
        let size = self.size.unwrap_or([h, w]);
        let mut values = Vec::with_capacity(self.channels * size[0] * size[1]);
        for channel in 0..self.channels {
            let plane = image.index_axis(ndarray::Axis(0), channel.min(c - 1));
            // The byte of an image file divided by 255, as in other programs.
            let plane = plane.mapv(|x| (((f64::from(x) + 1.0) * 127.5).round() / 255.0) as f32);
            values.extend(bilinear(plane.view(), size));
        }
        Ok((values, size))
    }
}

/// The network and the value called `output`.
fn load(bytes: Vec<u8>, output: &str) -> Result<(Model, NodeId)> {
    let with = |optimize: bool| {
        let mut options = ModelOptions::with_all_ops();
        options.enable_optimization(optimize);
        guarded(|| options.load(bytes.clone()))?.map_err(|e| Error::data(format!("cannot be loaded: {e}")).caused_by(e))
    };
    let model = with(true)?;
    if let Some(output) = model.find_node(output) {
        return Ok((model, output));
    }
    // Optimisation may have merged an inner value into its neighbours.
    let model = with(false)?;
    match model.find_node(output) {
        Some(output) => Ok((model, output)),
        None => {
            let names = model.output_ids().iter().filter_map(|id| model.node_info(*id)?.name().map(str::to_owned));
            let names = names.collect::<Vec<_>>().join(", ");
            Err(Error::new(Kind::NotFound, format!("no value \"{output}\" in the network; its outputs are {names}")))
        }
    }
}

impl FeatureNetwork for OnnxFeatures {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn features(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>> {
        let mut all = Vec::with_capacity(images.dim().0 * self.dimensions);
        for (i, image) in images.outer_iter().enumerate() {
            // One at a time, because the order of summation may depend on the batch.
            let (values, size) = self.prepared(image)?;
            let features = self.run(values, size)?;
            if features.len() != self.dimensions {
                let (name, expected, found) = (&self.name, self.dimensions, features.len());
                return Err(Error::unsupported(format!(
                    "{name}: {found} numbers for images of {size:?}, {expected} before"
                )));
            }
            if features.iter().any(|v| !v.is_finite()) {
                return Err(Error::new(
                    Kind::NonFinite,
                    format!("{}: features of image {i} are not finite", self.name),
                ));
            }
            all.extend(features);
        }
        Ok(Array2::from_shape_vec((images.dim().0, self.dimensions), all).expect("a row for each image"))
    }
}
