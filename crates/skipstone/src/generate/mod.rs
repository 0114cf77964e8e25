//! From what a user asks for to images: options and their precedence, batches, folders that can be continued.
//!
//! Command line and service share this. Image i of a run depends on the model, the options, the seed and its own
//! index only: never on how the run was cut into batches, shards or sittings.

mod folder;
mod manifest;
mod settings;

pub use folder::{Folder, image_name};
pub use manifest::Manifest;
pub use settings::{ClassRule, ClipMode, Request, Settings, SpacingChoice, Variance};

use std::ops::{ControlFlow, Range};

use ndarray::{Array4, Array5, ArrayView, Axis, Dimension, Slice};
use sha2::{Digest, Sha256};

use crate::checkpoint::Model;
use crate::denoiser::{Denoiser, Guided};
use crate::error::{Error, Result};
use crate::noise::{Given, NoiseSource, Seeded, initial_latent};
use crate::sampler::{Outcome, Plan, Progress, sample};
use crate::unet::UNet;

/// Tensors read from files in place of seeded noise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// x_T of images `first`.., `[n, c, h, w]`.
    pub latents: Option<Array4<f32>>,
    /// z in step order, `[calls, n, c, h, w]`.
    pub noise: Option<Array5<f32>>,
}

/// A model made ready to generate with one set of options.
pub struct Generator {
    network: Box<dyn Denoiser + Send + Sync>,
    plan: Plan,
    settings: Settings,
    inputs: Inputs,
    /// The absolute index of the inputs' first row.
    first: u64,
    calls_per_step: usize,
    flops: u64,
    activation_bytes: usize,
    parameters: usize,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Generator {
    /// A generator of `n` images from absolute index `first` on.
    ///
    /// # Errors
    /// Options that mean nothing for this model; inputs of another shape than its images, the number of network calls
    /// and `n` ask for.
    pub fn new(model: Model, request: &Request, inputs: Inputs, first: u64, n: usize) -> Result<Self> {
        if n == 0 {
            return Err(Error::argument("n: expected at least 1 image, found 0"));
        }
        if first.checked_add(n as u64).is_none() {
            return Err(Error::argument(format!("first: {first} + n overflows 64 bits")));
        }
        let (mut settings, plan) = Settings::resolve(&model, request)?;
        plan.check(model.scheduler.prediction_type)?;
        let parameters = model.parameters.data().len();
        let unet = UNet::new(model.config, model.parameters, model.scheduler.prediction_type)?;
        let [c, h, w] = unet.shape();
        if let Some(latents) = &inputs.latents
            && latents.shape() != [n, c, h, w]
        {
            let found = latents.shape();
            return Err(Error::argument(format!("latents: expected [{n}, {c}, {h}, {w}], found {found:?}")));
        }
        if let Some(noise) = &inputs.noise
            && noise.shape() != [plan.steps().len(), n, c, h, w]
        {
            return Err(Error::argument(format!(
                "noise: expected [{}, {n}, {c}, {h}, {w}] ([steps, n, channels, height, width]), found {:?}",
                plan.steps().len(),
                noise.shape()
            )));
        }
        settings.latents = inputs.latents.as_ref().map(|latents| digest(latents.view()));
        settings.noise = inputs.noise.as_ref().map(|noise| digest(noise.view()));
        let (flops, activation_bytes) = (unet.flops(), unet.activation_bytes());
        let (network, calls_per_step): (Box<dyn Denoiser + Send + Sync>, usize) =
            match (settings.guidance, model.null_class) {
                (Some(weight), Some(null)) => (Box::new(Guided::new(unet, weight, null)?), 2),
                _ => (Box::new(unet), 1),
            };
        Ok(Self { network, plan, settings, inputs, first, calls_per_step, flops, activation_bytes, parameters })
    }

    /// The options as they came out of request, model and defaults.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The steps.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// `[channels, height, width]` of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.network.shape()
    }

    /// How often the network is evaluated for one call of the plan: twice under guidance.
    pub fn calls_per_step(&self) -> usize {
        self.calls_per_step
    }

    /// Floating-point operations for one image.
    pub fn flops_per_image(&self) -> u64 {
        self.flops * (self.plan.calls() * self.calls_per_step) as u64
    }

    /// Bytes held while `batch` images are made on so many threads: weights, activations, a handful of latents.
    pub fn bytes(&self, batch: usize, threads: usize) -> usize {
        let image: usize = self.shape().iter().product();
        4 * self.parameters + self.activation_bytes * threads.min(batch) + 4 * 8 * image * batch
    }

    /// How many of `n` images to make at a time: a few for every thread, so that none waits long for the others, and no
    /// more than fit into a quarter of a gigabyte. The images do not depend on it.
    pub fn batch(&self, n: usize, threads: usize) -> usize {
        let image: usize = self.shape().iter().product();
        let fit = (1 << 28) / (4 * 8 * image).max(1);
        (4 * threads).min(fit.max(1)).min(n).max(1)
    }

    /// Makes the images of absolute indices `images`, all of the range this generator was made for.
    ///
    /// # Errors
    /// As [`sample`].
    pub fn generate(
        &self,
        images: Range<u64>,
        observer: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        let n = (images.end - images.start) as usize;
        let row = (images.start - self.first) as usize;
        let rows = Slice::from(row..row + n);
        let seed = self.settings.seed;
        let x_t = match &self.inputs.latents {
            Some(latents) => latents.slice_axis(Axis(0), rows).to_owned(),
            None => initial_latent(seed, images.start, n, self.shape()),
        };
        let mut noise: Box<dyn NoiseSource> = match &self.inputs.noise {
            Some(noise) => Box::new(Given::new(noise.slice_axis(Axis(1), rows).to_owned())),
            None => Box::new(Seeded::new(seed, images.start)),
        };
        let classes = self.settings.classes.map(|rule| images.map(|i| rule.class(i)).collect::<Vec<_>>());
        sample(&*self.network, &self.plan, x_t, &mut *noise, classes.as_deref(), observer)
    }
}

/// SHA-256 of a tensor's shape and values, in hexadecimal.
fn digest<D: Dimension>(tensor: ArrayView<'_, f32, D>) -> String {
    let mut hash = Sha256::new();
    tensor.shape().iter().for_each(|&length| hash.update((length as u64).to_le_bytes()));
    tensor.iter().for_each(|value| hash.update(value.to_le_bytes()));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
