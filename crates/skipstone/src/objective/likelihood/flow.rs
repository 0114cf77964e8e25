//! The likelihood of the deterministic process (Song et al., arXiv 2011.13456, App. D.2) for a DDIM checkpoint.
//!
//! Let φ = arctan σ_ve, so √a = cos φ and √(1−a) = sin φ. Then the ODE of DDIM Eq. 14 is dx/dφ = v̂(x, φ) (Salimans &
//! Ho, arXiv 2202.00512, App. D). It is regular at both ends, and zero SNR is φ = π/2. The density along the flow
//! changes by the divergence, so log p(x₀) = log N(x_T; 0, I) + ∫ tr(∂v̂/∂x) dφ from clean data to T. Hutchinson's
//! estimator zᵀ(∂v̂/∂x)z with E[zzᵀ] = I gives the trace (arXiv 1810.01367).

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

use ndarray::{Array4, Axis, Zip, concatenate};

use crate::error::{Error, Kind, Result};
use crate::math::noise::{KeyedRng, Purpose};
use crate::math::schedule::{NoiseLevel, Schedule, Time};
use crate::math::trajectory::Trajectory;
use crate::sampling::denoiser::{Condition, DifferentiableDenoiser, check_finite, check_shape};

/// The distribution of the entries of a probe z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// ±1. Has the least variance among independent entries, and none for a diagonal Jacobian.
    #[default]
    Rademacher,
    /// Standard normal.
    Gaussian,
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rademacher => "rademacher",
            Self::Gaussian => "gaussian",
        })
    }
}

impl FromStr for ProbeKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "rademacher" => Ok(Self::Rademacher),
            "gaussian" => Ok(Self::Gaussian),
            _ => Err(Error::argument(format!("probe \"{name}\": expected rademacher or gaussian"))),
        }
    }
}

/// Options of the trace estimator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowOptions {
    /// Probes per image, each fixed along the whole path. Two or more give the estimator's variance.
    pub probes: usize,
    /// Their distribution.
    pub kind: ProbeKind,
    /// The seed of the probes.
    pub seed: u64,
    /// The index of the first image, which keys its probes.
    pub first_image: u64,
}

/// The state of a run, passed to the observer after each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowStep {
    /// Steps done, from 1.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// The timestep that the step reached.
    pub t: Time,
}

/// The latents and log-densities of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Flowed {
    /// x_T of each image, `[n, c, h, w]`.
    pub x_t: Array4<f32>,
    /// Estimates of log p(x₀) of each image in nats, one per probe. Their mean is the estimate.
    pub log_densities: Vec<Vec<f64>>,
}

impl Flowed {
    /// Concatenates the results of several batches. `None` for no batches.
    ///
    /// # Errors
    /// The batches have different image shapes.
    pub fn merged(parts: Vec<Self>) -> Result<Option<Self>> {
        if parts.is_empty() {
            return Ok(None);
        }
        let views: Vec<_> = parts.iter().map(|part| part.x_t.view()).collect();
        let x_t = concatenate(Axis(0), &views).map_err(|e| Error::argument(format!("batches: {e}")))?;
        Ok(Some(Self { x_t, log_densities: parts.into_iter().flat_map(|part| part.log_densities).collect() }))
    }

    /// The estimate of log p(x₀) of each image, in nats.
    pub fn means(&self) -> Vec<f64> {
        self.log_densities.iter().map(|probes| probes.iter().sum::<f64>() / probes.len() as f64).collect()
    }

    /// The standard error, in nats, that the trace estimator adds to the mean over images. `None` for a single probe,
    /// which has no variance estimate.
    pub fn probe_error(&self) -> Option<f64> {
        let errors = self.log_densities.iter().map(|probes| super::standard_error(probes));
        let squares: Option<f64> = errors.map(|error| error.map(|error| error * error)).sum();
        squares.map(|sum| sum.sqrt() / self.log_densities.len() as f64)
    }
}

/// Computes log p(x₀) of the images `x0`, `[n, c, h, w]`, under the deterministic process. 8-bit images must be
/// dequantised.
///
/// Heun's method runs from clean data along the timesteps of `trajectory`, with two vector-Jacobian products per step
/// and probe. Two errors remain. Discretisation is a bias that falls with the square of the step size; doubling the
/// steps shows it. The variance of the probes averages out over images and probes: see [`Flowed::probe_error`]. Between
/// clean data and the first trained timestep the field is that of the first trained timestep.
///
/// ```
/// use ndarray::{Array3, Array4};
/// use skipstone::objective::likelihood::{FlowOptions, ProbeKind, flow};
/// use skipstone::sampling::oracle::Oracle;
/// use skipstone::math::schedule::{BetaSchedule, Schedule};
/// use skipstone::math::trajectory::{Spacing, Trajectory};
/// let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
/// let white = Oracle::gaussian(&schedule, Array3::zeros((1, 1, 2)), Array3::ones((1, 1, 2)))?;
/// let tau = Trajectory::named(Spacing::Linear, 20, 1000, 0)?;
/// let options = FlowOptions { probes: 1, kind: ProbeKind::Rademacher, seed: 0, first_image: 0 };
/// let found = flow(&white, &schedule, &tau, &options, &Array4::zeros((1, 1, 1, 2)), &[], &mut |_| {
///     std::ops::ControlFlow::Continue(())
/// })?;
/// // log N(0; 0, I) in two dimensions.
/// assert!((found.means()[0] + (2.0 * std::f64::consts::PI).ln()).abs() < 1e-3);
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The number of probes is 0, ε-prediction meets zero SNR, an image or output is not finite, the observer stops the run
/// ([`Kind::Stopped`]), or the network fails.
pub fn flow<D: DifferentiableDenoiser + ?Sized>(
    denoiser: &D,
    schedule: &Schedule,
    trajectory: &Trajectory,
    options: &FlowOptions,
    x0: &Array4<f32>,
    conditions: &[Condition],
    observer: &mut dyn FnMut(FlowStep) -> ControlFlow<()>,
) -> Result<Flowed> {
    schedule.check_prediction(denoiser.prediction())?;
    check_shape("x0", x0, denoiser.shape())?;
    check_finite("x0", x0)?;
    if options.probes == 0 {
        return Err(Error::argument("probes: expected at least 1, found 0"));
    }
    let field = Field { denoiser, conditions, probes: (0..options.probes).map(|k| probe(options, k, x0)).collect() };

    let first = (Time::new(1), schedule.level(Time::new(1))?);
    let mut x = x0.mapv(f64::from);
    let mut integrals = vec![vec![0.0; options.probes]; x0.dim().0];
    let steps = trajectory.calls();
    for (i, (s, t)) in trajectory.reverse_steps().enumerate() {
        let (from, to) = (schedule.level(s)?, schedule.level(t)?);
        // The network cannot be called on clean data.
        let start = if s == Time::CLEAN { first } else { (s, from) };
        let h = angle(to) - angle(from);
        let here = field.at(&x, start.0, start.1)?;
        let there = field.at(&(&x + &(&here.velocity * h)), t, to)?;
        Zip::from(&mut x)
            .and(&here.velocity)
            .and(&there.velocity)
            .for_each(|x, here, there| *x += 0.5 * h * (here + there));
        for (sums, (here, there)) in integrals.iter_mut().zip(here.traces.iter().zip(&there.traces)) {
            for (sum, (here, there)) in sums.iter_mut().zip(here.iter().zip(there)) {
                *sum += 0.5 * h * (here + there);
            }
        }
        tracing::debug!(step = i + 1, steps, t = t.get(), "flow");
        let done = FlowStep { step: i + 1, steps, t };
        if observer(done).is_break() && i + 1 < steps {
            return Err(Error::stopped());
        }
    }
    for (sums, image) in integrals.iter_mut().zip(x.outer_iter()) {
        let prior = log_normal(image.iter().copied());
        sums.iter_mut().for_each(|sum| *sum += prior);
    }
    let x_t = x.mapv(|x| x as f32);
    check_finite("x_T", &x_t)?;
    if let Some(i) = integrals.iter().position(|sums| sums.iter().any(|sum| !sum.is_finite())) {
        return Err(Error::new(Kind::NonFinite, format!("image {i} of the batch: the log-density is not finite")));
    }
    Ok(Flowed { x_t, log_densities: integrals })
}

/// φ = arctan σ_ve.
fn angle(level: NoiseLevel) -> f64 {
    level.noise().atan2(level.signal())
}

/// log N(x; 0, I).
fn log_normal(x: impl Iterator<Item = f64>) -> f64 {
    let constant = (2.0 * std::f64::consts::PI).ln();
    x.map(|x| -0.5 * (x * x + constant)).sum()
}

/// Probe `k` of every image.
fn probe(options: &FlowOptions, k: usize, x0: &Array4<f32>) -> Array4<f32> {
    let mut z = Array4::zeros(x0.dim());
    for (i, mut image) in z.outer_iter_mut().enumerate() {
        let image_index = options.first_image.wrapping_add(i as u64);
        // Probes repeat after 2³², far more than any run draws.
        let mut rng = KeyedRng::new(options.seed, Purpose::Probe, image_index, k as u32);
        match options.kind {
            ProbeKind::Rademacher => image.mapv_inplace(|_: f32| if rng.next_u64() >> 63 == 0 { 1.0 } else { -1.0 }),
            ProbeKind::Gaussian => {
                let mut values = vec![0.0; image.len()];
                rng.fill_gaussian(&mut values);
                image.iter_mut().zip(values).for_each(|(to, from)| *to = from);
            }
        }
    }
    z
}

/// v̂ and its trace estimates at one state.
struct Slope {
    velocity: Array4<f64>,
    /// zᵀ(∂v̂/∂x)z of each image and probe.
    traces: Vec<Vec<f64>>,
}

/// The vector field v̂ with its probes.
struct Field<'a, D: ?Sized> {
    denoiser: &'a D,
    conditions: &'a [Condition],
    probes: Vec<Array4<f32>>,
}

impl<D: DifferentiableDenoiser + ?Sized> Field<'_, D> {
    fn at(&self, x: &Array4<f64>, t: Time, level: NoiseLevel) -> Result<Slope> {
        // v̂ = of_x·x + of_out·out, so zᵀ(∂v̂/∂x)z = of_x·‖z‖² + of_out·zᵀ(∂out/∂x)z.
        let (of_x, of_out) = self.denoiser.prediction().velocity_at(level)?;
        let input = x.mapv(|x| x as f32);
        let mut traces = vec![Vec::with_capacity(self.probes.len()); x.dim().0];
        let mut velocity = None;
        for z in &self.probes {
            let pulled = self.denoiser.pullback(&input, &vec![t; x.dim().0], self.conditions, z)?;
            check_finite(&format!("network output at t = {}", t.get()), &pulled.out)?;
            check_finite(&format!("network gradient at t = {}", t.get()), &pulled.gradient)?;
            for (traces, (z, gradient)) in traces.iter_mut().zip(z.outer_iter().zip(pulled.gradient.outer_iter())) {
                let trace = |(&z, &g): (&f32, &f32)| f64::from(z) * (of_x * f64::from(z) + of_out * f64::from(g));
                traces.push(z.iter().zip(gradient).map(trace).sum());
            }
            velocity.get_or_insert_with(|| {
                Zip::from(x).and(&pulled.out).map_collect(|x, &out| of_x * x + of_out * f64::from(out))
            });
        }
        // There is at least one probe.
        Ok(Slope { velocity: velocity.unwrap_or_else(|| Array4::zeros(x.dim())), traces })
    }
}
