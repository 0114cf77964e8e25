//! The front door of the library: a model and the options to run it with.

mod images;

pub use images::Images;

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array4, Axis, Slice};

use crate::engine::{EngineOptions, Network, Precision};
use crate::error::{Error, Result};
use crate::io::checkpoint::{self, LoadOptions, Model};
use crate::math::latent;
use crate::math::noise::{Purpose, Seeded, latents_of};
use crate::objective::{Elbo, ElboOptions, elbo};
use crate::sampling::denoiser::Denoiser;
use crate::sampling::generate::{Folder, Generator, Inputs, batches, digest};
use crate::sampling::inversion::{self, Latents, Method};
use crate::sampling::options::{ClipMode, Noise, Preset, Request, SolverChoice, SpacingChoice};
use crate::sampling::sampler::Progress;

/// Images of one evaluation of the bound. It is fixed, so that sums have the same order on every machine.
const BOUNDED: usize = 32;

/// A loaded model and the options to run it with.
///
/// Options that are not set come from the model's config, else from the defaults of the `skipstone` command, which makes the
/// same images from the same options. The network is loaded once; clones share it.
///
/// ```no_run
/// use skipstone::Pipeline;
/// let pipeline = Pipeline::load("runs/a/model")?.seed(7);
/// for steps in [10, 20, 50] {
///     pipeline.clone().steps(steps).sample(16)?.save_grid(format!("{steps}.png"))?;
/// }
/// // Between the images of two seeds, and an image by way of its latent.
/// let ends = pipeline.latents(&[1, 2]);
/// pipeline.interpolate(&ends, 11)?.save_grid("line.png")?;
/// let image = pipeline.sample(1)?.into_array();
/// let again = pipeline.decode(&pipeline.encode(&image)?)?;
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pipeline {
    network: Arc<dyn Network>,
    /// Without parameters: the network holds them.
    model: Arc<Model>,
    engine: EngineOptions,
    request: Request,
    first: u64,
    batch: Option<usize>,
}

impl Pipeline {
    /// Loads the model in `path`: a diffusers folder, an original checkpoint, a weight file with a config.json beside it, or
    /// `org/name[@revision]` in the Hugging Face cache. The network computes in f32 on all cores;
    /// [`from_model`](Self::from_model) takes another device or precision.
    ///
    /// # Errors
    /// As [`checkpoint::load`] and [`Model::open`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_model(checkpoint::load(path.as_ref(), &LoadOptions::default())?, &EngineOptions::default())
    }

    /// A pipeline of a loaded model, for instance from [`checkpoint::load_embedded`]. `engine` chooses the device, the precision
    /// and the number of threads.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_model(mut model: Model, engine: &EngineOptions) -> Result<Self> {
        let network = model.open(engine)?;
        Ok(Self {
            network: network.into(),
            model: Arc::new(model),
            engine: *engine,
            request: Request { precision: engine.precision, ..Request::default() },
            first: 0,
            batch: None,
        })
    }

    /// Replaces all options set so far. The precision stays that of the network.
    #[must_use]
    pub fn request(self, request: Request) -> Self {
        Self { request, ..self }
    }

    /// S, the number of steps.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.request.steps = Some(steps);
        self
    }

    /// The seed of latents and noise.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.request.seed = seed;
        self
    }

    /// η: 0 is DDIM, which draws no noise, 1 is DDPM.
    #[must_use]
    pub fn eta(self, eta: f64) -> Self {
        self.noise(Noise::Eta(eta))
    }

    /// The noise of each step.
    #[must_use]
    pub fn noise(mut self, noise: Noise) -> Self {
        self.request.noise = noise;
        self
    }

    /// Steps, spacing and solver for a purpose; options set beside it stand.
    #[must_use]
    pub fn preset(mut self, preset: Preset) -> Self {
        self.request.preset = Some(preset);
        self
    }

    /// The solver.
    #[must_use]
    pub fn solver(mut self, solver: impl Into<SolverChoice>) -> Self {
        self.request.solver = Some(solver.into());
        self
    }

    /// The spacing: which S of the T timesteps a run visits.
    #[must_use]
    pub fn spacing(mut self, spacing: impl Into<SpacingChoice>) -> Self {
        self.request.spacing = Some(spacing.into());
        self
    }

    /// How x̂₀ is clipped.
    #[must_use]
    pub fn clip(mut self, clip: ClipMode) -> Self {
        self.request.clip = Some(clip);
        self
    }

    /// The class of every image.
    #[must_use]
    pub fn class(self, class: usize) -> Self {
        self.classes([class])
    }

    /// The classes of the images, in turn.
    #[must_use]
    pub fn classes(mut self, classes: impl Into<Vec<usize>>) -> Self {
        self.request.class = classes.into();
        self
    }

    /// The weight of classifier-free guidance or, for a model with a guide ([`Model::guided_by`]), of autoguidance.
    #[must_use]
    pub fn guidance(mut self, weight: f64) -> Self {
        self.request.guidance = Some(weight);
        self
    }

    /// The index of the first image. Image i does not depend on the other images of a run.
    #[must_use]
    pub fn first(self, first: u64) -> Self {
        Self { first, ..self }
    }

    /// Images per network call; the default suits the threads. The images do not depend on it.
    #[must_use]
    pub fn batch(self, images: usize) -> Self {
        Self { batch: Some(images), ..self }
    }

    /// The model's config, scheduler and hashes. Its parameters are empty: the network holds them.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// `[channels, height, width]` of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.network.shape()
    }

    /// Makes `n` images.
    ///
    /// # Errors
    /// An option does not apply to this model, or the network refuses the input.
    pub fn sample(&self, n: usize) -> Result<Images> {
        self.sample_with(Inputs::default(), n)
    }

    /// Makes `n` images from given latents, with given noise, or by filling a region of an image.
    ///
    /// # Errors
    /// As [`sample`](Self::sample), or an input has the wrong shape for the images, the steps or `n`.
    pub fn sample_with(&self, inputs: Inputs, n: usize) -> Result<Images> {
        let generator = self.generator(inputs, n)?;
        let images = self.first..self.first + n as u64;
        let array = generator.generate_array(images, self.batch_of(&generator, n), &mut go_on)?;
        Ok(Images::new(array, generator.settings().clone(), self.first))
    }

    /// Writes `n` images to a folder, as [`Images::save_folder`] does, and holds only one batch in memory. Existing images are
    /// kept, so the same call continues an interrupted one.
    ///
    /// # Errors
    /// As [`sample`](Self::sample) and [`Folder::open`].
    pub fn sample_to_folder(&self, path: impl AsRef<Path>, n: usize) -> Result<()> {
        let generator = self.generator(Inputs::default(), n)?;
        let folder = Folder::open(path.as_ref(), generator.settings(), self.first, n as u64, self.shape())?;
        let missing = (self.first..self.first + n as u64).filter(|&index| !folder.holds(index));
        let batch = self.batch_of(&generator, n);
        generator.generate_all(missing, batch, &mut go_on, |indices, images| folder.write_all(indices, &images))
    }

    /// Encodes images `[n, c, h, w]` to the latents x_T from which deterministic sampling with the same options reconstructs
    /// them. Clipping is off unless set.
    ///
    /// # Errors
    /// As [`encode`](inversion::encode); in particular, the options ask for noise.
    pub fn encode(&self, images: &Array4<f32>) -> Result<Array4<f32>> {
        let go_on = &mut inversion::unobserved;
        self.by_rows(images, |generator, rows, range| {
            generator.encode(&rows, range, &Method::Ddim, go_on)?.latents.into_single()
        })
        .map(|(latents, _)| latents)
    }

    /// Decodes latents `[n, c, h, w]` from [`encode`](Self::encode) with the same options.
    ///
    /// # Errors
    /// As [`decode`](inversion::decode); in particular, the options ask for noise.
    pub fn decode(&self, latents: &Array4<f32>) -> Result<Images> {
        let go_on = &mut inversion::unobserved;
        let (images, generator) = self.by_rows(latents, |generator, rows, range| {
            Ok(generator.decode(&Latents::One(rows), range, &Method::Ddim, go_on)?.images)
        })?;
        let mut settings = generator.settings().clone();
        settings.latents = Some(digest(latents.view()));
        Ok(Images::new(images, settings, self.first))
    }

    /// The latents x_T of the first image of each seed, `[seeds, c, h, w]`, for example as ends to
    /// [`interpolate`](Self::interpolate) between.
    pub fn latents(&self, seeds: &[u64]) -> Array4<f32> {
        latents_of(seeds, self.shape())
    }

    /// Samples a line of `points` latents between two ends, or a square of `points`² latents between four ends,
    /// `[2 or 4, c, h, w]`; the ends are included. For ends from [`encode`](Self::encode), set [`ClipMode::Off`] if the model's
    /// config clips.
    ///
    /// # Errors
    /// There are not two or four ends, there are fewer than two points, a class-conditional model has no class set, or as
    /// [`sample`](Self::sample).
    pub fn interpolate(&self, ends: &Array4<f32>, points: usize) -> Result<Images> {
        let latents = latent::between(ends, points)?;
        let n = latents.dim().0;
        self.generator(Inputs::default(), n)?.settings().one_class("class")?;
        let images = self.sample_with(Inputs { latents: Some(latents), ..Inputs::default() }, n)?;
        Ok(Images { columns: points, ..images })
    }

    /// The evidence lower bound of images `[n, c, h, w]` (on the 256 levels of −1..1) under the sampler with noise; see
    /// [`Elbo::bits_per_dim`]. If the options have no noise, η = 1 (DDPM).
    ///
    /// # Errors
    /// As [`elbo`], or a class-conditional model has no class set.
    pub fn likelihood(&self, images: &Array4<f32>) -> Result<Elbo> {
        let mut request = self.request.clone();
        if !request.is_stochastic() {
            request.noise = Noise::Eta(1.0);
        }
        let n = images.dim().0;
        let generator = Self { request, ..self.clone() }.generator(Inputs::default(), n)?;
        generator.settings().one_class("class")?;
        let (settings, schedule) = (generator.settings(), generator.plan().schedule());
        let tau = settings.trajectory(schedule)?;
        let options = ElboOptions { scale: settings.scale.clone(), sigma_1: None, clip: settings.clip };
        let of = |range: Range<u64>| {
            let mut noise = Seeded { purpose: Purpose::Likelihood, ..Seeded::new(settings.seed, range.start) };
            let x0 = images.slice_axis(Axis(0), self.rows(&range)).to_owned();
            let conditions = generator.conditions(range);
            let go_on = &mut |_: &_| ControlFlow::Continue(());
            elbo(&*self.network, schedule, &tau, &options, &x0, &mut noise, &conditions, go_on)
        };
        let parts = batches(self.first..self.first + n as u64, BOUNDED).map(of).collect::<Result<_>>()?;
        Elbo::merged(parts).ok_or_else(|| Error::argument("expected at least 1 image, found 0"))
    }

    /// A generator of `n` images with these options, for everything else: observing and stopping runs, plans, costs, other
    /// inversion methods.
    ///
    /// # Errors
    /// As [`Generator::over`], or the request asks for another precision than the network's.
    pub fn generator(&self, inputs: Inputs, n: usize) -> Result<Generator> {
        let precision = self.engine.precision;
        if self.request.precision != Precision::default() && self.request.precision != precision {
            return Err(Error::argument(format!(
                "precision: found {}, the network computes in {precision}; the precision is an option of the engine",
                self.request.precision
            )));
        }
        let request = Request { precision, ..self.request.clone() };
        Generator::over(self.network.clone(), self.network.cost(), &self.model, &request, inputs, (self.first, n))
    }

    /// Passes the rows of `all` through `make` in batches. Clipping is off unless set.
    fn by_rows(
        &self,
        all: &Array4<f32>,
        mut make: impl FnMut(&Generator, Array4<f32>, Range<u64>) -> Result<Array4<f32>>,
    ) -> Result<(Array4<f32>, Generator)> {
        let n = all.dim().0;
        let unclipped = Self { request: self.request.clone().unclipped(), ..self.clone() };
        let generator = unclipped.generator(Inputs::default(), n)?;
        let mut made = Array4::zeros(all.dim());
        for range in batches(self.first..self.first + n as u64, self.batch_of(&generator, n)) {
            let rows = self.rows(&range);
            let part = make(&generator, all.slice_axis(Axis(0), rows).to_owned(), range)?;
            made.slice_axis_mut(Axis(0), rows).assign(&part);
        }
        Ok((made, generator))
    }

    /// The rows of these images in an array of all images of the run.
    fn rows(&self, images: &Range<u64>) -> Slice {
        Slice::from((images.start - self.first) as usize..(images.end - self.first) as usize)
    }

    fn batch_of(&self, generator: &Generator, n: usize) -> usize {
        self.batch.unwrap_or_else(|| generator.batch(n, self.engine.threads))
    }
}

/// An observer that never stops the run.
fn go_on(_: &Range<u64>, _: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests;
