use std::fmt;

use super::check_affine;
use crate::error::{Error, Result};
use crate::sampling::sampler::Plan;

/// An inversion method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// The deterministic step run backwards (DDIM §4.3): S calls, round-trip error O(1/S) with DDIM sampling.
    Ddim,
    /// Inverts DDIM sampling by iteration: finds the latent whose DDIM sample is the image.
    FixedPoint(FixedPoint),
    /// An algebraically invertible sampler at the cost of DDIM.
    Bdia(Bdia),
    /// Two coupled chains, at twice the cost of DDIM.
    Edict(Edict),
}

/// Fixed-point inversion: solves Φ(x_t) = x_s for each DDIM step Φ by x ← (x_s − eps·ε̂(x, t))/√(a_s/a_t), image by image.
///
/// Each iteration multiplies the error by −eps·√(a_t/a_s)·∂ε̂/∂x. Along a direction in which the data consistent with
/// x_t are Gaussian with variance v, this factor is σ_t·(σ_t − σ_s)/(v + σ_t²), where σ = σ_ve. It is at most 1 −
/// σ_s/σ_t, so small steps converge fast. A step onto clean data (σ_s = 0) has the factor σ_t²/(v + σ_t²), which
/// approaches 1 where the data hardly vary. Such a step contracts those directions to zero, its inverse 1 + σ_t²/v is
/// unbounded, and the residual falls like a power of the iterations, not exponentially. Timesteps that get close to
/// clean data (quadratic spacing) reduce the effect most. [`Convergence`](super::Convergence) reports the outcome of
/// each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FixedPoint {
    /// An image has converged when the root mean square of Φ(x_t) − x_s, in network values, is at most this.
    pub tolerance: f64,
    /// Maximum number of network calls per step.
    pub iterations: usize,
}

impl Default for FixedPoint {
    fn default() -> Self {
        Self { tolerance: 1e-5, iterations: 30 }
    }
}

/// Bi-directional integration approximation (Zhang et al., arXiv 2307.10829):
/// x_{i−1} = DDIM_{i−1}(x_i) + γ·(x_{i+1} − DDIM_{i+1}(x_i)), where DDIM_j is the deterministic step from x_i to level j.
///
/// The correction to DDIM is the distance by which the step up from x_i misses the earlier state x_{i+1}. Solving for
/// x_{i+1} gives the exact inverse. Encoding amplifies errors by up to 1/γ per step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bdia {
    /// γ in (0, 1]; γ = 1 is symmetric in time.
    pub gamma: f64,
}

impl Default for Bdia {
    fn default() -> Self {
        Self { gamma: 1.0 }
    }
}

/// Exact inversion by coupled transformations (Wallace et al., arXiv 2211.12446, Eq. 14 and 15). Two chains each move with
/// the ε̂ of the other and are then mixed by p. The chain that moves first alternates from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edict {
    /// p in (0, 1]. The inverse multiplies the difference of the chains by 1/p² per step. The paper uses 0.93.
    pub mix: f64,
}

impl Default for Edict {
    fn default() -> Self {
        Self { mix: 0.93 }
    }
}

impl Method {
    /// Whether the method's latents are pairs.
    pub fn is_paired(&self) -> bool {
        matches!(self, Self::Bdia(_) | Self::Edict(_))
    }

    /// Name on the command line: ddim, fixed-point, bdia or edict.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::FixedPoint(_) => "fixed-point",
            Self::Bdia(_) => "bdia",
            Self::Edict(_) => "edict",
        }
    }

    /// Checks that the method supports the plan and that its parameters are valid. [`encode`](super::encode) and
    /// [`decode`](super::decode) do this before their first network call.
    ///
    /// # Errors
    /// The plan injects noise or uses a solver other than DDIM. For the exact methods also: the plan clips or has a =
    /// 0, or a parameter is out of range.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        plan.check_ddim("inversion")?;
        if !plan.is_deterministic() {
            return Err(Error::argument(
                "a sampler that draws noise has no single latent; set eta to 0, or recover its noise as well",
            ));
        }
        if !matches!(self, Self::Ddim) {
            check_affine(plan, self.name())?;
        }
        let wrong = |what: &str, range: &str, found: f64| {
            Err(Error::argument(format!("{what}: expected {range}, found {found}")))
        };
        match *self {
            Self::Ddim => Ok(()),
            Self::FixedPoint(by) if !(by.tolerance.is_finite() && by.tolerance > 0.0) => {
                wrong("tolerance", "a positive finite number", by.tolerance)
            }
            Self::FixedPoint(by) if by.iterations == 0 => wrong("iterations", "at least 1", 0.0),
            Self::Bdia(by) if !(by.gamma > 0.0 && by.gamma <= 1.0) => wrong("gamma", "0 < gamma <= 1", by.gamma),
            Self::Bdia(_) if plan.steps().len() < 2 => wrong("steps", "at least 2 for bdia", plan.steps().len() as f64),
            Self::Edict(by) if !(by.mix > 0.0 && by.mix <= 1.0) => wrong("mix", "0 < p <= 1", by.mix),
            Self::FixedPoint(_) | Self::Bdia(_) | Self::Edict(_) => Ok(()),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddim => f.write_str("ddim"),
            Self::FixedPoint(by) => {
                write!(f, "fixed-point (tolerance {:e}, {} iterations)", by.tolerance, by.iterations)
            }
            Self::Bdia(by) => write!(f, "bdia (gamma {})", by.gamma),
            Self::Edict(by) => write!(f, "edict (p = {})", by.mix),
        }
    }
}
