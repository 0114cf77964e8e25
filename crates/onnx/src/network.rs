//! Running a graph as a denoiser.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ndarray::Array4;
use rten::{NodeId, RunOptions, ThreadPool, ValueOrView};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skipstone::engine::{Cost, Device, EngineOptions, Network, NetworkSource, Precision};
use skipstone::error::{Error, Result};
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::{self, Condition, Denoiser, Prediction};
use skipstone::unet::Config;

use crate::scan::Element;
use crate::signature::{PerImage, Signature};

/// A loaded graph. Networks opened from it share its weights.
pub(crate) struct Graph {
    pub model: rten::Model,
    pub signature: Signature,
    pub config: Config,
    pub parameters: usize,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("signature", &self.signature).finish_non_exhaustive()
    }
}

/// A graph as a model holds it.
#[derive(Debug)]
pub(crate) struct Source(pub Arc<Graph>);

impl NetworkSource for Source {
    fn parameters(&self) -> usize {
        self.0.parameters
    }

    fn kind(&self) -> &'static str {
        "an ONNX network"
    }

    fn open(&self, prediction: Prediction, options: &EngineOptions) -> Result<Box<dyn Network>> {
        if options.precision != Precision::F32 {
            let found = options.precision;
            return Err(Error::argument(format!("precision: an ONNX network computes in f32, found {found}")));
        }
        if let Device::Gpu(..) = options.device {
            let found = options.device;
            return Err(Error::argument(format!("device: an ONNX network is computed on the CPU, found {found}")));
        }
        if options.threads == 0 {
            return Err(Error::argument("threads: expected at least 1, found 0"));
        }
        Ok(Box::new(OnnxNetwork::new(self.0.clone(), prediction, options.threads)?))
    }
}

/// A network from an ONNX file, run by rten in f32.
///
/// A call computes one image at a time, or as many as the graph fixes, because the order of a sum may depend on the
/// batch. Images are distributed over the threads; if there are fewer images than threads, the threads share each image.
struct OnnxNetwork {
    graph: Arc<Graph>,
    prediction: Prediction,
    inputs: [Option<NodeId>; 3],
    output: NodeId,
    /// Channels of the output: those of an image, or twice as many where the network has learnt its variance.
    channels: usize,
    /// All threads, for one image.
    wide: Arc<ThreadPool>,
    /// One thread each, for several images.
    narrow: Vec<Arc<ThreadPool>>,
}

impl std::fmt::Debug for OnnxNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxNetwork").field("graph", &self.graph).finish_non_exhaustive()
    }
}

/// The inputs of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    time: f64,
    class: usize,
}

impl OnnxNetwork {
    /// Tries the network once, so that an operation which rten cannot run fails here.
    fn new(graph: Arc<Graph>, prediction: Prediction, threads: usize) -> Result<Self> {
        let Signature { sample, timestep, class, output, .. } = &graph.signature;
        let node = |name: &str| {
            let node = graph.model.find_node(name);
            node.ok_or_else(|| Error::data(format!("{name}: the graph has lost this value")))
        };
        let class = class.as_ref().map(|(class, _)| node(&class.name)).transpose()?;
        let pool = |threads| Arc::new(ThreadPool::with_num_threads(threads));
        let mut network = Self {
            inputs: [Some(node(sample)?), Some(node(&timestep.name)?), class],
            output: node(output)?,
            prediction,
            channels: 0,
            wide: pool(threads),
            narrow: (0..threads).map(|_| pool(1)).collect(),
            graph,
        };
        let [c, h, w] = network.graph.signature.shape;
        let found = network.call(&[Row { time: 0.0, class: 0 }], &vec![0.0; c * h * w], &network.wide)?;
        let [n, channels, height, width] = <[usize; 4]>::try_from(found.shape()).unwrap_or_default();
        if [n, height, width] != [network.graph.signature.rows, h, w] || ![c, 2 * c].contains(&channels) {
            return Err(Error::unsupported(format!(
                "the output {} is {:?}; expected [{}, {c}, {h}, {w}], or {} channels with a learnt variance",
                network.graph.signature.output,
                found.shape(),
                network.graph.signature.rows,
                2 * c
            )));
        }
        if channels > c {
            tracing::warn!("the network has learnt its variance; only its prediction, the first {c} channels, is used");
        }
        network.channels = channels;
        Ok(network)
    }

    /// Runs the graph on these rows, which are as many as it takes or fewer; the last one is repeated. `x` holds their
    /// images.
    fn call(&self, rows: &[Row], x: &[f32], threads: &Arc<ThreadPool>) -> Result<Tensor<f32>> {
        let Signature { rows: all, shape: [c, h, w], timestep, class, .. } = &self.graph.signature;
        let len = c * h * w;
        let mut images = Vec::with_capacity(all * len);
        images.extend_from_slice(x);
        let mut filled = rows.to_vec();
        while filled.len() < *all {
            images.extend_from_slice(&x[x.len() - len..]);
            filled.push(rows[rows.len() - 1]);
        }
        let times: Vec<f64> = filled.iter().map(|row| row.time).collect();
        let classes: Vec<f64> = filled.iter().map(|row| row.class as f64).collect();
        let [sample, time, label] = self.inputs;
        let values = [
            sample.map(|id| (id, Tensor::from_data(&[*all, *c, *h, *w], images).into())),
            time.map(|id| (id, per_image(timestep, &times))),
            label.zip(class.as_ref()).map(|(id, (class, _))| (id, per_image(class, &classes))),
        ];
        let options = RunOptions::default().with_thread_pool(Some(threads.clone()));
        let run = || self.graph.model.run(values.into_iter().flatten().collect(), &[self.output], Some(options));
        let found = super::guarded(run)?
            .map_err(|e| Error::unsupported(format!("the network cannot be run: {e}")).caused_by(e))?;
        match found.into_iter().next() {
            Some(rten::Value::FloatTensor(values)) => Ok(values),
            _ => Err(Error::unsupported(format!("the output {} is not float", self.graph.signature.output))),
        }
    }

    /// Runs the rows with these indices and writes their predictions.
    fn group(&self, group: &[usize], rows: &[Row], x: &[f32], threads: &Arc<ThreadPool>) -> Result<Vec<f32>> {
        let [c, h, w] = self.graph.signature.shape;
        let len = c * h * w;
        let images: Vec<f32> = group.iter().flat_map(|&row| &x[row * len..(row + 1) * len]).copied().collect();
        let inputs: Vec<Row> = group.iter().map(|&row| rows[row]).collect();
        let found = self.call(&inputs, &images, threads)?;
        if found.shape() != [self.graph.signature.rows, self.channels, h, w] {
            let shape = found.shape().to_vec();
            return Err(Error::unsupported(format!("the output changes its shape from call to call: {shape:?}")));
        }
        let values = found.to_vec();
        let mut all = Vec::with_capacity(group.len() * len);
        for image in values.chunks_exact(self.channels * h * w).take(group.len()) {
            all.extend_from_slice(&image[..len]);
        }
        Ok(all)
    }

    /// Rows that can share a call: at most as many as the graph takes, with equal times and classes where it takes only
    /// one of them for all.
    fn groups(&self, rows: &[Row]) -> Vec<Vec<usize>> {
        let Signature { rows: most, timestep, class, .. } = &self.graph.signature;
        let shared_class = class.as_ref().is_some_and(|(class, _)| class.shared);
        let agree = |a: Row, b: Row| (!timestep.shared || a.time == b.time) && (!shared_class || a.class == b.class);
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (i, &row) in rows.iter().enumerate() {
            match groups.last_mut() {
                Some(group) if group.len() < *most && agree(rows[group[0]], row) => group.push(i),
                _ => groups.push(vec![i]),
            }
        }
        groups
    }

    fn rows(&self, x: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Vec<Row>> {
        let Signature { shape: [c, h, w], class, .. } = &self.graph.signature;
        let n = x.dim().0;
        if x.shape()[1..] != [*c, *h, *w] {
            let found = &x.shape()[1..];
            return Err(Error::argument(format!("images: the network takes [{c}, {h}, {w}], found {found:?}")));
        }
        if times.len() != n {
            return Err(Error::argument(format!("expected {n} times, one per image, found {}", times.len())));
        }
        let classes = denoiser::classes(conditions, n, class.as_ref().map(|(_, known)| *known))?;
        let row = |i: usize| {
            let no_time = || Error::argument("a network has no prediction for clean data (t = 0)");
            let time = times[i].index().ok_or_else(no_time)?;
            if !self.takes_fractional_times() && time.whole().is_none() {
                return Err(Error::argument(format!("time index {time}: the network takes whole numbers only")));
            }
            let class = classes.as_ref().map_or(0, |classes| classes[i]);
            Ok(Row { time: time.value(), class })
        };
        (0..n).map(row).collect()
    }
}

/// One number for each image as the graph takes it.
fn per_image(input: &PerImage, values: &[f64]) -> ValueOrView<'static> {
    let values = if input.shared { &values[..1] } else { values };
    let mut shape = vec![1; input.rank];
    if let Some(first) = shape.first_mut() {
        *first = values.len();
    }
    match input.element {
        Element::Integer => Tensor::from_data(&shape, values.iter().map(|&v| v as i32).collect::<Vec<_>>()).into(),
        _ => Tensor::from_data(&shape, values.iter().map(|&v| v as f32).collect::<Vec<_>>()).into(),
    }
}

impl Denoiser for OnnxNetwork {
    fn shape(&self) -> [usize; 3] {
        self.graph.signature.shape
    }

    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        let rows = self.rows(x_t, times, conditions)?;
        let x = x_t.as_standard_layout();
        let x = x.as_slice().expect("standard layout");
        let groups = self.groups(&rows);
        let made: Vec<Result<Vec<f32>>> = if groups.len() < self.narrow.len() {
            groups.iter().map(|group| self.group(group, &rows, x, &self.wide)).collect()
        } else {
            let next = AtomicUsize::new(0);
            let made = Mutex::new((0..groups.len()).map(|_| Ok(Vec::new())).collect::<Vec<_>>());
            std::thread::scope(|scope| {
                for threads in &self.narrow {
                    scope.spawn(|| {
                        loop {
                            let i = next.fetch_add(1, Ordering::Relaxed);
                            let Some(group) = groups.get(i) else { break };
                            let found = self.group(group, &rows, x, threads);
                            made.lock().unwrap_or_else(PoisonError::into_inner)[i] = found;
                        }
                    });
                }
            });
            made.into_inner().unwrap_or_else(PoisonError::into_inner)
        };
        let mut y = Vec::with_capacity(x.len());
        for part in made {
            y.extend(part?);
        }
        Ok(Array4::from_shape_vec(x_t.dim(), y).expect("a prediction for each row"))
    }

    fn takes_fractional_times(&self) -> bool {
        self.graph.signature.timestep.element == Element::Float
    }
}

impl Network for OnnxNetwork {
    fn config(&self) -> &Config {
        &self.graph.config
    }

    fn cost(&self) -> Cost {
        let [_, h, w] = self.graph.signature.shape;
        let image: usize = self.graph.signature.shape.iter().product();
        // Nothing says how much memory and work the graph needs inside.
        Cost {
            flops: 0,
            activation_bytes: 4 * (image + self.channels * h * w),
            weight_bytes: 4 * self.graph.parameters,
            batch: None,
        }
    }

    fn profile(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[Condition],
        part: &mut dyn FnMut(String, Duration, u64),
    ) -> Result<()> {
        let begun = Instant::now();
        self.predict(x_t, times, conditions)?;
        part("the whole ONNX network".to_owned(), begun.elapsed(), 0);
        Ok(())
    }
}
