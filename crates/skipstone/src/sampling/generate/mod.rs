//! Image generation as every front end does it: option precedence, batches, and folders that can be resumed.
//!
//! Image i of a run depends only on the model, the options, the seed and its index: never on how the run was split into
//! batches, shards or sessions.

mod archive;
mod batches;
mod folder;
mod manifest;
mod rehearsal;
mod settings;

pub use crate::io::Shard;
pub use archive::{NpzFile, TarFile, TarStream};
pub use batches::batches;
pub use folder::{Folder, image_name};
pub use manifest::Manifest;
pub use settings::{ClassRule, Settings, stated, texts};

use std::ops::{ControlFlow, Range};

use ndarray::{Array4, Array5, ArrayView, Axis, Dimension, Slice};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::engine::{Cost, EngineOptions};
use crate::error::{Error, Result};
use crate::io::checkpoint::Model;
use crate::io::hex::hex;
use crate::math::noise::{Given, NoiseSource, Purpose, Seeded, initial_latent};
use crate::sampling::denoiser::{Autoguided, Condition, Denoiser, Guided};
use crate::sampling::inpaint::{Noises, Region, Resampling, inpaint};
use crate::sampling::inversion::{self, Decoded, Encoded, Latents, Method};
use crate::sampling::options::Request;
use crate::sampling::sampler::{Plan, Progress, sample};
use crate::sampling::solver::Solver;

/// Inputs of a run: tensors that replace seeded noise, and a region to inpaint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// x_T of the run's images, `[n, c, h, w]`.
    pub latents: Option<Array4<f32>>,
    /// z in step order, `[steps, n, c, h, w]`.
    pub noise: Option<Array5<f32>>,
    /// An image with the region to inpaint, and the resampling.
    pub region: Option<(Region, Resampling)>,
}

/// A network, a plan and settings, ready to generate images.
pub struct Generator {
    network: Box<dyn Denoiser + Send + Sync>,
    plan: Plan,
    settings: Settings,
    inputs: Inputs,
    /// Absolute index of the inputs' first row.
    first: u64,
    /// Operations of the network, and of what guides it if there is guidance, for an image.
    flops: u64,
    guide_flops: Option<u64>,
    /// Network evaluations of an image when each observer call is made, where they differ from step to step.
    evaluated: Option<Vec<usize>>,
    cost: Cost,
    note: Option<String>,
}

/// What a person should know about this run of `model` before it begins; `None` if there is nothing.
///
/// A distilled network has learnt the DDIM steps between its own times only, and no error tells that a run asks it for others.
pub fn note(model: &Model, plan: &Plan) -> Option<String> {
    let own = model.scheduler.num_inference_steps?;
    // A restart, which is noise, also repeats times, so it is asked for first.
    let (what, remedy) = if plan.solver() != Solver::DDIM || !plan.is_deterministic() {
        ("steps with noise, of another solver or of a restart", "leave them out")
    } else if model.scheduler.misses(plan.steps().iter().map(|step| step.t)).is_some() {
        ("the times of this run", "leave steps and spacing out to use its own")
    } else {
        return None;
    };
    Some(format!("the model was distilled for {own} steps and has not learnt {what}; {remedy}"))
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Generator {
    /// A generator of `n` images starting at absolute index `first`. `engine` runs the network in the precision of the
    /// request.
    ///
    /// # Errors
    /// An option is invalid for this model; the inputs do not match the model's shape, the number of steps and `n`; or a
    /// region is given with a solver other than DDIM.
    pub fn new(
        mut model: Model,
        engine: &EngineOptions,
        request: &Request,
        inputs: Inputs,
        first: u64,
        n: usize,
    ) -> Result<Self> {
        let run = Settings::resolve(&model, request)?;
        run.1.check(model.scheduler.prediction_type)?;
        let network = model.open(&EngineOptions { precision: run.0.precision, ..*engine })?;
        let cost = network.cost();
        Self::assemble(network, cost, &model, run)?.with_inputs(inputs, first, n)
    }

    /// A generator over an existing network of `model`, for example a shared one. Ignores the parameters in `model`, but takes the
    /// network of its guide, which must be open.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn over(
        network: impl Denoiser + Send + Sync + 'static,
        cost: Cost,
        model: &Model,
        request: &Request,
        inputs: Inputs,
        (first, n): (u64, usize),
    ) -> Result<Self> {
        let run = Settings::resolve(model, request)?;
        run.1.check(network.prediction())?;
        Self::assemble(network, cost, model, run)?.with_inputs(inputs, first, n)
    }

    fn assemble(
        network: impl Denoiser + Send + Sync + 'static,
        mut cost: Cost,
        model: &Model,
        (settings, plan): (Settings, Plan),
    ) -> Result<Self> {
        let mut network: Box<dyn Denoiser + Send + Sync> = Box::new(network);
        let (flops, mut guide_flops) = (cost.flops, None);
        if let Some(weight) = settings.guidance {
            let (schedule, interval) = (plan.schedule().clone(), settings.guidance_interval);
            if let Some(guide) = &model.guide {
                let (weak, weak_cost) = guide.network()?;
                let guided = Autoguided::new(network, weak, weight, schedule)?;
                network = match interval {
                    Some(interval) => Box::new(guided.within(interval)),
                    None => Box::new(guided),
                };
                guide_flops = Some(weak_cost.flops);
                cost = cost.beside(weak_cost);
            } else if let Some(null) = settings.null_class {
                let guided = Guided::new(network, weight, null)?;
                network = match interval {
                    Some(interval) => Box::new(guided.within(schedule, interval)),
                    None => Box::new(guided),
                };
                guide_flops = Some(flops);
            }
        }
        let (inputs, note) = (Inputs::default(), note(model, &plan));
        Ok(Self { network, plan, settings, inputs, first: 0, flops, guide_flops, evaluated: None, cost, note })
    }

    /// What a person should know about the run before it begins: [`note`].
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The same network and options with other inputs, for `n` images starting at absolute index `first`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_inputs(mut self, inputs: Inputs, first: u64, n: usize) -> Result<Self> {
        if n == 0 {
            return Err(Error::argument("n: expected at least 1 image, found 0"));
        }
        if first.checked_add(n as u64).is_none() {
            return Err(Error::argument(format!("first: {first} + n overflows 64 bits")));
        }
        let [c, h, w] = self.shape();
        if let Some(latents) = &inputs.latents
            && latents.shape() != [n, c, h, w]
        {
            let found = latents.shape();
            return Err(Error::argument(format!("latents: expected [{n}, {c}, {h}, {w}], found {found:?}")));
        }
        if let Some(noise) = &inputs.noise
            && noise.shape() != [self.plan.steps().len(), n, c, h, w]
        {
            return Err(Error::argument(format!(
                "noise: expected [{}, {n}, {c}, {h}, {w}] ([steps, n, channels, height, width]), found {:?}",
                self.plan.steps().len(),
                noise.shape()
            )));
        }
        if let Some((region, by)) = &inputs.region {
            if inputs.noise.is_some() && *by != Resampling::PROJECTION {
                return Err(Error::argument(
                    "noise: given noise has one z per step, but resampling repeats steps; remove one of the two",
                ));
            }
            self.plan.check_ddim("inpainting")?;
            by.calls(self.plan.steps().len())?;
            let mask = region.fill().mapv(|fill| f32::from(u8::from(fill)));
            let value = json!({
                "image": digest(region.image().view()), "mask": digest(mask.view()),
                "jump": by.jump, "resamples": by.resamples,
            });
            self.settings.extra.insert("inpaint".to_owned(), value);
        }
        if inputs.region.is_none() {
            self.settings.extra.remove("inpaint");
        }
        self.settings.latents = inputs.latents.as_ref().map(|latents| digest(latents.view()));
        self.settings.noise = inputs.noise.as_ref().map(|noise| digest(noise.view()));
        let mut generator = Self { inputs, first, ..self };
        generator.evaluated = generator.rehearse(&generator.plan)?;
        Ok(generator)
    }

    /// The same network and inputs with other options, as [`Settings::resolve`] returns them for the same model. `n` must
    /// not change.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_run(self, (settings, plan): (Settings, Plan), n: usize) -> Result<Self> {
        plan.check(self.network.prediction())?;
        let (inputs, first) = (self.inputs.clone(), self.first);
        Self { settings, plan, ..self }.with_inputs(inputs, first, n)
    }

    /// The network, with guidance if the options set it.
    pub fn network(&self) -> &(dyn Denoiser + Send + Sync) {
        &*self.network
    }

    /// The condition of each of these images; empty for an unconditional network.
    pub fn conditions(&self, images: Range<u64>) -> Vec<Condition> {
        let rule = self.settings.classes.as_ref();
        rule.map_or_else(Vec::new, |rule| images.map(|i| Condition::Class(rule.class(i))).collect())
    }

    /// The resolved options.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The plan of the run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The absolute index of the first image.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// `[channels, height, width]` of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.network.shape()
    }

    /// The most network evaluations per call of the plan: 2 with guidance, else 1.
    pub fn calls_per_step(&self) -> usize {
        1 + usize::from(self.guide_flops.is_some())
    }

    /// Number of observer calls of a run: one per step, counting the steps that resampling repeats.
    pub fn moves(&self) -> usize {
        self.moves_of(&self.plan)
    }

    /// [`moves`](Self::moves) for another plan.
    pub fn moves_of(&self, plan: &Plan) -> usize {
        let steps = plan.steps().len();
        // `with_inputs` has checked this.
        self.inputs.region.as_ref().map_or(steps, |(_, by)| by.calls(steps).unwrap_or(steps))
    }

    /// Number of network calls of a run, a guided one counted once. It exceeds the number of steps for some solvers and for
    /// inpainting with resampling.
    pub fn calls(&self) -> usize {
        self.calls_of(&self.plan)
    }

    /// [`calls`](Self::calls) for another plan.
    pub fn calls_of(&self, plan: &Plan) -> usize {
        // Inpainting uses DDIM, which makes one call per step.
        if self.inputs.region.is_some() { self.moves_of(plan) } else { plan.calls() }
    }

    /// Number of network calls made when the observer has been called `moves` times.
    pub fn calls_after(&self, moves: usize) -> usize {
        if self.inputs.region.is_some() { moves } else { self.plan.calls_after(moves) }
    }

    /// Network evaluations of a run for one image: its calls, and those of guidance where it acts.
    pub fn evaluations(&self) -> usize {
        self.evaluations_after(self.moves())
    }

    /// [`evaluations`](Self::evaluations) for another plan.
    ///
    /// # Errors
    /// The network cannot be sampled by this plan.
    pub fn evaluations_of(&self, plan: &Plan) -> Result<usize> {
        let all = self.rehearse(plan)?;
        Ok(all.map_or_else(|| self.calls_of(plan) * self.calls_per_step(), |all| all.last().copied().unwrap_or(0)))
    }

    /// Network evaluations for one image made when the observer has been called `moves` times.
    pub fn evaluations_after(&self, moves: usize) -> usize {
        match &self.evaluated {
            Some(after) => moves.checked_sub(1).and_then(|last| after.get(last)).copied().unwrap_or(0),
            None => self.calls_after(moves) * self.calls_per_step(),
        }
    }

    /// Network evaluations of an image made by the first `calls` calls of encoding by [`Method::Ddim`], which makes one for each
    /// step of the plan.
    pub fn encoding_evaluations_after(&self, calls: usize) -> usize {
        let asked = self.plan.steps().iter().rev().take(calls);
        asked.map(|step| self.network.evaluations(inversion::time_below(step))).sum()
    }

    /// Network evaluations of an image in encoding it by [`Method::Ddim`].
    pub fn encoding_evaluations(&self) -> usize {
        self.encoding_evaluations_after(self.plan.steps().len())
    }

    /// Floating-point operations for one image.
    pub fn flops_per_image(&self) -> u64 {
        self.flops_for(self.calls(), self.evaluations())
    }

    /// Floating-point operations for one image of a run with so many calls ([`calls_of`](Self::calls_of)) and evaluations
    /// ([`evaluations_of`](Self::evaluations_of)).
    pub fn flops_for(&self, calls: usize, evaluations: usize) -> u64 {
        match self.guide_flops {
            // Unknown if one is.
            Some(guide) if self.flops.min(guide) == 0 => 0,
            Some(guide) => self.flops * calls as u64 + guide * evaluations.saturating_sub(calls) as u64,
            None => self.flops * calls as u64,
        }
    }

    /// The most floating-point operations of one network call, guidance included, for one image.
    pub fn flops_per_call(&self) -> u64 {
        self.flops_for(1, self.calls_per_step())
    }

    /// Memory for generating `batch` images, in bytes: packed weights, activations and eight images' worth of f32 latents.
    pub fn bytes(&self, batch: usize) -> usize {
        let image: usize = self.shape().iter().product();
        self.cost.weight_bytes + self.cost.activation_bytes * batch + 4 * 8 * image * batch
    }

    /// Recommended batch size for `n` images: as many as keep a graphics processor busy; on a processor, large enough to use
    /// every thread and to amortise reading the weights, small enough to fit into 256 MiB. The images do not depend on it.
    pub fn batch(&self, n: usize, threads: usize) -> usize {
        if let Some(batch) = self.cost.batch {
            return batch.min(n).max(1);
        }
        let image: usize = self.shape().iter().product();
        let fit = (1 << 28) / (self.cost.activation_bytes + 4 * 8 * image).max(1);
        (8 * threads).clamp(16, 64).min(fit.max(1)).min(n).max(1)
    }

    /// Generates the images with absolute indices `images`, which must lie in this generator's range.
    ///
    /// # Errors
    /// As [`sample`].
    pub fn generate(
        &self,
        images: Range<u64>,
        observer: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Array4<f32>> {
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
        let conditions = self.conditions(images.clone());
        if let Some((region, by)) = &self.inputs.region {
            let mut around = Seeded { purpose: Purpose::Inpaint, ..Seeded::new(seed, images.start) };
            let noises = Noises { step: &mut *noise, around: &mut around };
            return inpaint(&*self.network, &self.plan, x_t, region, *by, noises, &conditions, observer);
        }
        sample(&*self.network, &self.plan, x_t, &mut *noise, &conditions, observer)
    }

    /// Generates the images with the absolute indices `wanted` and passes each finished batch to `sink`. A batch has at most
    /// `batch` consecutive indices, and only one is in memory. The images do not depend on `batch`.
    ///
    /// `observer` is called after every step, with the indices of the batch. If it stops the run at the last step of a batch,
    /// that batch still reaches `sink`.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), or `sink` fails.
    pub fn generate_all<E: From<Error>>(
        &self,
        wanted: impl IntoIterator<Item = u64>,
        batch: usize,
        observer: &mut dyn FnMut(&Range<u64>, &Progress<'_>) -> ControlFlow<()>,
        mut sink: impl FnMut(Range<u64>, Array4<f32>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut flow = ControlFlow::Continue(());
        for images in batches(wanted, batch) {
            if flow.is_break() {
                return Err(Error::stopped().into());
            }
            let x0 = self.generate(images.clone(), &mut |progress| {
                flow = observer(&images, progress);
                flow
            })?;
            sink(images, x0)?;
        }
        Ok(())
    }

    /// Generates the images in batches and returns them in one array, `[n, c, h, w]`.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_array(
        &self,
        images: Range<u64>,
        batch: usize,
        observer: &mut dyn FnMut(&Range<u64>, &Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Array4<f32>> {
        let [c, h, w] = self.shape();
        let mut all = Array4::zeros(((images.end - images.start) as usize, c, h, w));
        self.generate_all(images.clone(), batch, observer, |part, x0| {
            let rows = (part.start - images.start) as usize..(part.end - images.start) as usize;
            all.slice_axis_mut(Axis(0), Slice::from(rows)).assign(&x0);
            Ok::<_, Error>(())
        })?;
        Ok(all)
    }

    /// Encodes `x0`, `[n, c, h, w]`, along the plan. The images have the conditions of the absolute indices `images`.
    ///
    /// # Errors
    /// As [`encode`](inversion::encode).
    pub fn encode(
        &self,
        x0: &Array4<f32>,
        images: Range<u64>,
        method: &Method,
        observer: inversion::Observer<'_>,
    ) -> Result<Encoded> {
        inversion::encode(&*self.network, &self.plan, x0, method, &self.conditions(images), observer)
    }

    /// Decodes latents along the plan. The images have the conditions of the absolute indices `images`.
    ///
    /// # Errors
    /// As [`decode`](inversion::decode).
    pub fn decode(
        &self,
        latents: &Latents,
        images: Range<u64>,
        method: &Method,
        observer: inversion::Observer<'_>,
    ) -> Result<Decoded> {
        inversion::decode(&*self.network, &self.plan, latents, method, &self.conditions(images), observer)
    }
}

/// SHA-256 of a tensor's shape and values, in hexadecimal. Manifests identify input tensors by it.
pub fn digest<D: Dimension>(tensor: ArrayView<'_, f32, D>) -> String {
    let mut hash = Sha256::new();
    tensor.shape().iter().for_each(|&length| hash.update((length as u64).to_le_bytes()));
    tensor.iter().for_each(|value| hash.update(value.to_le_bytes()));
    hex(&hash.finalize())
}
