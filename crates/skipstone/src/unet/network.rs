//! A network ready to be asked: parameters, plan and workspaces.

use std::sync::{Arc, Mutex};

use ndarray::Array4;
use rayon::prelude::*;
use skipstone_kernels::Threads;

use super::config::{Config, TimeEmbedding};
use super::execute::{Inputs, Plan, Workspace};
use super::graph::Graph;
use super::params::{Layout, Parameters};
use crate::denoiser::{Denoiser, Prediction};
use crate::error::{Error, Result};
use crate::schedule::Time;

/// The parameters a network of this config has: names, shapes, order.
///
/// # Errors
/// The config makes no sense or is not supported; the message names the field.
///
/// ```
/// let layout = skipstone::unet::layout(&Default::default()).unwrap();
/// assert_eq!(layout.get("conv_in.weight").unwrap().shape, [32, 1, 3, 3]);
/// ```
pub fn layout(config: &Config) -> Result<Layout> {
    Ok(Graph::new(config)?.layout)
}

/// Floating-point operations of one call for one image, a multiplication and an addition counted as two.
///
/// # Errors
/// As [`layout`].
pub fn flops(config: &Config) -> Result<u64> {
    Ok(Graph::new(config)?.flops())
}

/// A U-Net on the CPU.
///
/// An image's result depends on that image, its time and its class only: not on the batch, not on the number of
/// threads.
#[derive(Debug)]
pub struct UNet {
    config: Config,
    graph: Graph,
    plan: Plan,
    parameters: Parameters,
    prediction: Prediction,
    /// Workspaces between calls: as many as threads ever ran at once.
    workspaces: Mutex<Vec<Workspace>>,
}

impl UNet {
    /// A network of the given architecture and parameters whose output means `prediction`.
    ///
    /// # Errors
    /// The config is invalid or asks for absurdly large images, or the parameters belong to another one.
    pub fn new(config: Config, parameters: Parameters, prediction: Prediction) -> Result<Self> {
        let graph = Graph::new(&config)?;
        if graph.layout != **parameters.layout() {
            return Err(Error::data("the parameters belong to another architecture"));
        }
        let plan = Plan::inference(&graph);
        plan.check()?;
        Ok(Self { config, graph, plan, parameters, prediction, workspaces: Mutex::default() })
    }

    /// The architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Floating-point operations of one call for one image.
    pub fn flops(&self) -> u64 {
        self.graph.flops()
    }

    /// Bytes of activations that one image needs during a call.
    pub fn activation_bytes(&self) -> usize {
        4 * self.plan.len()
    }

    /// The output for each image of `x_t`, image i at `times[i]` and of class `classes[i]`.
    ///
    /// # Errors
    /// A wrong shape, a time at clean data or outside a learned table, a class out of range, classes missing for a
    /// conditional network or given to an unconditional one.
    pub fn forward(&self, x_t: &Array4<f32>, times: &[Time], classes: Option<&[usize]>) -> Result<Array4<f32>> {
        let n = check(&self.config, x_t, times.len(), classes)?;
        let indices = time_indices(&self.config, times)?;
        let [height, width] = self.config.sample_size;
        let mut y = Array4::zeros((n, self.config.out_channels, height, width));
        if n == 0 {
            return Ok(y);
        }
        let x = x_t.as_standard_layout();
        let x = x.as_slice().expect("standard layout");
        let (x_len, y_len) = (x.len() / n, y.len() / n);
        let out = y.as_slice_mut().expect("standard layout");
        let image = |i: usize, out: &mut [f32], threads: Threads| {
            let mut workspace = self.workspaces.lock().map(|mut w| w.pop()).ok().flatten().unwrap_or_default();
            let inputs = Inputs {
                x: &x[i * x_len..(i + 1) * x_len],
                times: &indices[i..=i],
                classes: classes.map(|c| &c[i..=i]),
                dropout: None,
            };
            let parameters = self.parameters.data();
            out.copy_from_slice(self.graph.forward(
                &self.config,
                &self.plan,
                &mut workspace,
                parameters,
                inputs,
                threads,
            ));
            if let Ok(mut workspaces) = self.workspaces.lock() {
                workspaces.push(workspace);
            }
        };
        // An image per thread keeps its activations in that core's cache; a lone image is shared among all.
        if n == 1 {
            image(0, out, Threads::Pool);
        } else {
            out.par_chunks_exact_mut(y_len).enumerate().for_each(|(i, out)| image(i, out, Threads::One));
        }
        Ok(y)
    }
}

/// Checks images and classes against a config; returns the number of images.
pub(super) fn check(config: &Config, x: &Array4<f32>, times: usize, classes: Option<&[usize]>) -> Result<usize> {
    let (n, c, h, w) = x.dim();
    let [height, width] = config.sample_size;
    if (c, h, w) != (config.in_channels, height, width) {
        return Err(Error::argument(format!(
            "images are [{c}, {h}, {w}]; the network takes [{}, {height}, {width}]",
            config.in_channels
        )));
    }
    if times != n {
        return Err(Error::argument(format!("{times} times for {n} images")));
    }
    match (classes, config.num_class_embeds) {
        (None, None) => {}
        (None, Some(k)) => {
            return Err(Error::argument(format!("the network is conditioned on {k} classes and none was given")));
        }
        (Some(_), None) => return Err(Error::argument("the network is unconditional: it takes no class")),
        (Some(classes), Some(k)) => {
            if classes.len() != n {
                return Err(Error::argument(format!("{} classes for {n} images", classes.len())));
            }
            if let Some(class) = classes.iter().find(|c| **c >= k) {
                return Err(Error::argument(format!("class {class}; the network knows 0 to {}", k - 1)));
            }
        }
    }
    Ok(n)
}

/// The network indices of times.
pub(super) fn time_indices(config: &Config, times: &[Time]) -> Result<Vec<u32>> {
    times
        .iter()
        .map(|t| {
            let index = t.index().ok_or_else(|| Error::argument("the network is never asked about clean data"))?;
            if let TimeEmbedding::Learned { num_train_timesteps } = config.time_embedding
                && index as usize >= num_train_timesteps
            {
                return Err(Error::argument(format!(
                    "time index {index}; the network's table knows 0 to {}",
                    num_train_timesteps - 1
                )));
            }
            Ok(index)
        })
        .collect()
}

impl Denoiser for UNet {
    fn shape(&self) -> [usize; 3] {
        let [height, width] = self.config.sample_size;
        [self.config.in_channels, height, width]
    }

    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn predict(&self, x_t: &Array4<f32>, t: Time, classes: Option<&[usize]>) -> Result<Array4<f32>> {
        self.forward(x_t, &vec![t; x_t.dim().0], classes)
    }
}

/// The parameters of a network yet to be trained.
///
/// Convolutions and linear layers start as PyTorch's do, uniform in ±1/√(fan in); normalisations as the identity;
/// embeddings as unit Gaussians. Each residual block's last convolution, each attention's output and the network's last
/// convolution start at zero, as in the original DDPM code, so that blocks begin as the identity.
///
/// # Errors
/// As [`layout`].
pub fn initialise(
    config: &Config,
    mut uniform: impl FnMut() -> f64,
    mut gaussian: impl FnMut() -> f64,
) -> Result<Parameters> {
    let layout = Arc::new(layout(config)?);
    let mut parameters = Parameters::zeros(layout.clone());
    for spec in layout.specs() {
        let values = &mut parameters.data_mut()[spec.range()];
        let (module, kind) = spec.name.rsplit_once('.').unwrap_or(("", &spec.name));
        let is_norm = module.ends_with("norm1")
            || module.ends_with("norm2")
            || module.ends_with("norm")
            || module == "conv_norm_out";
        if is_norm {
            values.fill(if kind == "weight" { 1.0 } else { 0.0 });
        } else if module.ends_with("conv2") || module.ends_with("to_out.0") || module == "conv_out" {
            values.fill(0.0);
        } else if module == "class_embedding" || module == "time_proj" {
            values.iter_mut().for_each(|v| *v = gaussian() as f32);
        } else {
            let weight = layout.get(&format!("{module}.weight")).unwrap_or(spec);
            let fan_in: usize = weight.shape[1..].iter().product();
            let bound = 1.0 / (fan_in as f64).sqrt();
            values.iter_mut().for_each(|v| *v = ((2.0 * uniform() - 1.0) * bound) as f32);
        }
    }
    Ok(parameters)
}
