//! Inversion: from an image to its latent (DDIM §4.3) and back, by plain encoding or one of three exact methods.
//!
//! **Indexing.** Encoding takes the steps (t, s) of the plan in reverse, the last step first. Each moves the state from
//! the level of s to the level of t,
//!
//! x_t = √a_t·x̂₀ + √(1−a_t)·ε̂,
//!
//! where x̂₀ and ε̂ come from a network call on x_s *at the timestep of x_s*: where the state is, not where it goes.
//! Clean data have no network index, so there ε̂ is the prediction for the image at t = 1 (network index 0), and x̂₀ is
//! the image itself. With the indices 999, 499 the first call uses index 0 and goes from clean data to index 499; the
//! second uses 499 and goes to 999. S steps make S calls. The network is never called at the noisiest timestep, where
//! decoding starts.
//!
//! Plain encoding integrates the generative ODE backwards by Euler's method, so a round trip has an error of O(1/S). The
//! exact methods invert a sampler's step algebraically (BDIA, EDICT) or by iteration (fixed point).

mod bdia;
mod ddim;
mod edict;
mod error;
mod fixed_point;
mod method;
mod stochastic;

pub use error::squared_errors;
pub use fixed_point::Convergence;
pub use method::{Bdia, Edict, FixedPoint, Method};
pub use stochastic::{Draw, NoiseTrajectory, encode_noise};

use std::ops::{ControlFlow, Range};

use ndarray::{Array4, Array5, ArrayD, Axis, Slice, Zip, concatenate, stack};

use crate::error::{Error, Result};
use crate::math::noise::Forbidden;
use crate::math::schedule::{NoiseLevel, Time};
use crate::math::sigma::Step;
use crate::sampling::denoiser::{Clip, Condition, Denoised, Denoiser, check_finite, check_shape, denoise};
use crate::sampling::sampler::{self, Plan, sample};

/// The progress of an inversion, passed to the observer after each network call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Steps done so far.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Network calls so far, including calls on a part of the batch.
    pub calls: usize,
}

/// An observer, called after every network call. It may stop the run.
pub type Observer<'a> = &'a mut dyn FnMut(Calls) -> ControlFlow<()>;

/// An observer that never stops the run.
pub fn unobserved(_: Calls) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The result of encoding and the input of decoding.
#[derive(Clone, Debug, PartialEq)]
pub enum Latents {
    /// x_T, `[n, c, h, w]`, from [`Method::Ddim`] and [`Method::FixedPoint`]. Any sampler can start from it.
    One(Array4<f32>),
    /// Two states, each `[n, c, h, w]`: x_T and the state one step below it (BDIA), or the two coupled chains at T
    /// (EDICT). Only the same method can decode them. They are f64 so that no digits are lost between calls.
    Pair(Box<[Array4<f64>; 2]>),
}

impl Latents {
    /// x_T, `[n, c, h, w]`, from a method whose latents any sampler can start from.
    ///
    /// # Errors
    /// The latents are pairs.
    pub fn into_single(self) -> Result<Array4<f32>> {
        match self {
            Self::One(x_t) => Ok(x_t),
            Self::Pair(_) => Err(Error::argument("latents: expected one per image, found pairs")),
        }
    }

    /// The latents of all batches in one array: `[n, c, h, w]`, or `[2, n, c, h, w]` of pairs, as files have them.
    ///
    /// # Errors
    /// There are none, or they differ in kind or shape.
    pub fn joined(batches: &[Self]) -> Result<ArrayD<f32>> {
        let join = |states: Vec<Array4<f32>>| {
            let views: Vec<_> = states.iter().map(|state| state.view()).collect();
            concatenate(Axis(0), &views).map_err(|e| Error::argument(format!("latents: {e}")))
        };
        if batches.iter().all(|batch| matches!(batch, Self::One(_))) {
            return Ok(join(batches.iter().cloned().map(Self::into_single).collect::<Result<_>>()?)?.into_dyn());
        }
        let state = |k: usize| {
            let one = |batch: &Self| match batch {
                Self::Pair(pair) => Ok(pair[k].mapv(|value| value as f32)),
                Self::One(_) => Err(Error::argument("latents: found single ones among pairs")),
            };
            join(batches.iter().map(one).collect::<Result<_>>()?)
        };
        let whole = stack(Axis(0), &[state(0)?.view(), state(1)?.view()]);
        Ok(whole.map_err(|e| Error::argument(format!("latents: {e}")))?.into_dyn())
    }

    /// The pairs of an array `[2, n, c, h, w]` from [`joined`](Self::joined).
    ///
    /// # Errors
    /// The array has another number of states than two.
    pub fn from_pairs(all: &Array5<f32>) -> Result<Self> {
        if all.dim().0 != 2 {
            let found = all.shape();
            let message = format!("expected pairs of latents [2, n, channels, height, width], found {found:?}");
            return Err(Error::data(message));
        }
        let state = |k| all.index_axis(Axis(0), k).mapv(f64::from);
        Ok(Self::Pair(Box::new([state(0), state(1)])))
    }

    /// The number of images.
    pub fn images(&self) -> usize {
        match self {
            Self::One(x_t) => x_t.dim().0,
            Self::Pair(pair) => pair[0].dim().0,
        }
    }

    /// The latents of the images in `rows`.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let rows = Slice::from(rows);
        match self {
            Self::One(x_t) => Self::One(x_t.slice_axis(Axis(0), rows).to_owned()),
            Self::Pair(pair) => {
                Self::Pair(Box::new([0, 1].map(|k: usize| pair[k].slice_axis(Axis(0), rows).to_owned())))
            }
        }
    }
}

/// Encoded images and the cost of encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The latents.
    pub latents: Latents,
    /// Network evaluations, counted per image: n for a call on a batch of n.
    pub evaluations: u64,
    /// For [`Method::FixedPoint`], the convergence of each step, from clean data upwards. Empty for other methods.
    pub convergence: Vec<Convergence>,
}

/// Decoded images and the cost of decoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The images, not clamped, `[n, c, h, w]`.
    pub images: Array4<f32>,
    /// Network evaluations, counted per image.
    pub evaluations: u64,
}

/// Encodes the images `x0`, `[n, c, h, w]`, along `plan`.
///
/// Row i depends on image i alone. [`decode`] with the same plan, method and network inverts it.
///
/// ```
/// use ndarray::{Array3, Array4};
/// use skipstone::sampling::inversion::{Bdia, Method, decode, encode, unobserved};
/// use skipstone::{sampling::oracle::Oracle, sampling::sampler::Plan, math::trajectory::{Spacing, Trajectory}};
/// use skipstone::math::schedule::{BetaSchedule, Schedule};
/// let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
/// let oracle = Oracle::gaussian(&schedule, Array3::zeros((1, 2, 2)), Array3::from_elem((1, 2, 2), 0.25))?;
/// let plan = Plan::ddim(&schedule, &Trajectory::named(Spacing::Linear, 10, 1000, 0)?)?;
/// let (x0, method) = (Array4::from_elem((1, 1, 2, 2), 0.3), Method::Bdia(Bdia::default()));
/// let encoded = encode(&oracle, &plan, &x0, &method, &[], &mut unobserved)?;
/// let back = decode(&oracle, &plan, &encoded.latents, &method, &[], &mut unobserved)?;
/// assert!((&back.images - &x0).iter().all(|difference| difference.abs() < 1e-6));
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The plan injects noise (use [`encode_noise`]); for the exact methods also: the plan clips or has a = 0, or a parameter is
/// out of range. The images do not have the network's shape or are not finite, the observer stops the run
/// ([`Kind::Stopped`](crate::Kind)), or the network fails.
pub fn encode<D: Denoiser + ?Sized>(
    denoiser: &D,
    plan: &Plan,
    x0: &Array4<f32>,
    method: &Method,
    conditions: &[Condition],
    observer: Observer<'_>,
) -> Result<Encoded> {
    method.check(plan)?;
    plan.check(denoiser.prediction())?;
    check_shape("images", x0, denoiser.shape())?;
    check_finite("images", x0)?;
    let mut run = Run::new(denoiser, plan, conditions, observer);
    let mut convergence = Vec::new();
    let latents = match method {
        Method::Ddim => one(ddim::encode(&mut run, x0)?),
        Method::FixedPoint(by) => {
            let (x_t, report) = fixed_point::encode(&mut run, x0, *by)?;
            convergence = report;
            one(x_t)
        }
        Method::Bdia(by) => pair(bdia::encode(&mut run, x0, *by)?),
        Method::Edict(by) => pair(edict::encode(&mut run, x0, *by)?),
    };
    Ok(Encoded { latents, evaluations: run.evaluations, convergence })
}

/// Decodes the latents of [`encode`] to images. Single latents go through [`sample`].
///
/// # Errors
/// The latents are not of the method's kind; or as [`encode`].
pub fn decode<D: Denoiser + ?Sized>(
    denoiser: &D,
    plan: &Plan,
    latents: &Latents,
    method: &Method,
    conditions: &[Condition],
    observer: Observer<'_>,
) -> Result<Decoded> {
    method.check(plan)?;
    plan.check(denoiser.prediction())?;
    let (pair, method) = match (latents, method) {
        (Latents::One(x_t), Method::Ddim | Method::FixedPoint(_)) => {
            let each: usize = plan.steps().iter().map(|step| denoiser.evaluations(step.t)).sum();
            let evaluations = (x_t.dim().0 * each) as u64;
            let mut watch = |p: &sampler::Progress<'_>| observer(Calls { step: p.step, steps: p.steps, calls: p.step });
            let images = sample(denoiser, plan, x_t.clone(), &mut Forbidden, conditions, &mut watch)?;
            return Ok(Decoded { images, evaluations });
        }
        (Latents::Pair(pair), Method::Bdia(_) | Method::Edict(_)) => (pair, method),
        (Latents::Pair(_), _) => {
            return Err(Error::argument(format!("latents: {method} needs one latent per image, found pairs")));
        }
        (Latents::One(_), _) => {
            return Err(Error::argument(format!("latents: {method} needs a pair per image, found one latent each")));
        }
    };
    if pair[0].dim() != pair[1].dim() {
        let (a, b) = (pair[0].shape(), pair[1].shape());
        return Err(Error::argument(format!("latents: expected a pair of the same shape, found {a:?} and {b:?}")));
    }
    for state in pair.iter() {
        let state = state.mapv(|value| value as f32);
        check_shape("latents", &state, denoiser.shape())?;
        check_finite("latents", &state)?;
    }
    let mut run = Run::new(denoiser, plan, conditions, observer);
    let images = match method {
        Method::Edict(by) => edict::decode(&mut run, pair, *by)?,
        Method::Bdia(by) => bdia::decode(&mut run, pair, *by)?,
        Method::Ddim | Method::FixedPoint(_) => return Err(Error::argument("expected one latent per image")),
    };
    let images = images.mapv(|value| value as f32);
    check_finite("decoded images", &images)?;
    Ok(Decoded { images, evaluations: run.evaluations })
}

fn one(x_t: Array4<f64>) -> Latents {
    Latents::One(x_t.mapv(|value| value as f32))
}

fn pair(states: [Array4<f64>; 2]) -> Latents {
    Latents::Pair(Box::new(states))
}

/// A running inversion, which counts its network evaluations.
struct Run<'a, D: ?Sized> {
    denoiser: &'a D,
    plan: &'a Plan,
    conditions: &'a [Condition],
    observer: Observer<'a>,
    evaluations: u64,
    calls: usize,
    step: usize,
    steps: usize,
}

impl<'a, D: Denoiser + ?Sized> Run<'a, D> {
    fn new(denoiser: &'a D, plan: &'a Plan, conditions: &'a [Condition], observer: Observer<'a>) -> Self {
        Self { denoiser, plan, conditions, observer, evaluations: 0, calls: 0, step: 0, steps: plan.steps().len() }
    }

    /// x̂₀ and ε̂ of the states `x` at time `t` and its level.
    fn ask(&mut self, x: &Array4<f64>, t: Time, level: NoiseLevel) -> Result<Denoised> {
        self.ask_about(x, t, level, self.conditions)
    }

    /// The same with other conditions.
    fn ask_about(&mut self, x: &Array4<f64>, t: Time, level: NoiseLevel, conditions: &[Condition]) -> Result<Denoised> {
        let x = x.mapv(|value| value as f32);
        check_finite(&format!("x at t = {}", t.get()), &x)?;
        let denoised = denoise(self.denoiser, &x, t, level, conditions, self.plan.clip())?;
        self.evaluations += (x.dim().0 * self.denoiser.evaluations(t)) as u64;
        self.calls += 1;
        let calls = Calls { step: self.step, steps: self.steps, calls: self.calls };
        if (self.observer)(calls).is_break() { Err(Error::stopped()) } else { Ok(denoised) }
    }

    /// x̂₀ and ε̂ of the states `x_s` on which `step` lands: at their own time, or at t = 1 for clean data.
    fn ask_below(&mut self, x_s: &Array4<f64>, step: &Step) -> Result<Denoised> {
        let t = time_below(step);
        if step.s != Time::CLEAN {
            return self.ask(x_s, t, step.to);
        }
        let denoised = self.ask(x_s, t, self.plan.schedule().level(t)?)?;
        if step.to.one_minus > 0.0 {
            // This plan lands on the first trained level, not on clean data.
            return Ok(denoised);
        }
        Ok(Denoised { x0: x_s.mapv(|value| value as f32), ..denoised })
    }

    fn step_done(&mut self, t: Time, s: Time) {
        self.step += 1;
        tracing::debug!(step = self.step, steps = self.steps, t = t.get(), s = s.get(), "inversion step");
    }
}

/// The timestep at which encoding asks about the states on which `step` lands: their own, or t = 1 for clean data.
pub(in crate::sampling) fn time_below(step: &Step) -> Time {
    if step.s == Time::CLEAN { Time::new(1) } else { step.s }
}

/// √a·x̂₀ + √(1−a)·ε̂ at the level `to`, in either direction.
fn moved(denoised: &Denoised, to: NoiseLevel) -> Array4<f64> {
    let (signal, noise) = (to.signal(), to.noise());
    Zip::from(&denoised.x0).and(&denoised.eps).map_collect(|&x0, &eps| signal * f64::from(x0) + noise * f64::from(eps))
}

/// A deterministic step t → s as x_s = x·x_t + eps·ε̂(x_t, t): DDIM Eq. 12 with x̂₀ substituted, for a_t > 0.
#[derive(Clone, Copy)]
struct Affine {
    /// √(a_s/a_t).
    x: f64,
    /// √(1−a_s) − √(a_s/a_t)·√(1−a_t), negative.
    eps: f64,
}

impl Affine {
    fn of(step: &Step) -> Self {
        let x = (step.to.alpha_bar / step.from.alpha_bar).sqrt();
        Self { x, eps: step.to.noise() - x * step.from.noise() }
    }
}

/// Refuses plans whose steps are not affine in x_t and ε̂.
fn check_affine(plan: &Plan, name: &str) -> Result<()> {
    if plan.clip() != Clip::Off {
        return Err(Error::argument(format!(
            "clip: {name} inversion needs clip off, because clipping is not invertible"
        )));
    }
    if plan.steps().iter().any(|step| step.from.alpha_bar <= 0.0) {
        return Err(Error::argument(format!(
            "{name} inversion cannot invert a step from a = 0 (zero terminal SNR); start at a smaller timestep"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
