use std::fmt;

use super::check_affine;
use crate::error::{Error, Result};
use crate::sampling::sampler::Plan;

/// How an image is taken to a latent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// The deterministic step run backwards (DDIM §4.3): S calls, error O(1/S) against DDIM sampling.
    Ddim,
    /// The same sampler inverted by iteration: the latent whose DDIM sample the image is.
    FixedPoint(FixedPoint),
    /// A sampler that is its own inverse, at the cost of DDIM.
    Bdia(Bdia),
    /// Two coupled chains, at twice the cost of DDIM.
    Edict(Edict),
}

/// Solves Φ(x_t) = x_s for each DDIM step Φ by x ← (x_s − eps·ε̂(x, t))/√(a_s/a_t), image by image.
///
/// An error is multiplied by −eps·√(a_t/a_s)·∂ε̂/∂x from one iterate to the next. Along a direction in which what x_t
/// leaves open of the data is Gaussian with variance v, that is σ_t·(σ_t − σ_s)/(v + σ_t²), σ = σ_ve: at most
/// 1 − σ_s/σ_t, so that close steps converge at once. A step onto clean data (σ_s = 0) has σ_t²/(v + σ_t²), which
/// approaches 1 where the data hardly vary: such a step shrinks those directions to nothing, its inverse
/// 1 + σ_t²/v is out of bounds, and the residual falls like a power of the iterations, not exponentially. Times that
/// approach clean data closely (quadratic spacing) leave least of it. [`Convergence`](super::Convergence) says how each
/// step ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FixedPoint {
    /// An image is done with a step when Φ(x_t) differs from x_s by less, root mean square in network values.
    pub tolerance: f64,
    /// Most network calls per step.
    pub iterations: usize,
}

impl Default for FixedPoint {
    fn default() -> Self {
        Self { tolerance: 1e-5, iterations: 30 }
    }
}

/// Bi-directional integration approximation (Zhang et al., arXiv 2307.10829):
/// x_{i−1} = DDIM_{i−1}(x_i) + γ·(x_{i+1} − DDIM_{i+1}(x_i)), DDIM_j the deterministic move from x_i to level j.
///
/// The DDIM step is corrected by how far the way up from x_i misses the state that was there before; solved for
/// x_{i+1}, the same line is the exact inverse. Its errors grow by up to 1/γ per step on the way up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bdia {
    /// γ in (0, 1]; 1 is symmetric in time.
    pub gamma: f64,
}

impl Default for Bdia {
    fn default() -> Self {
        Self { gamma: 1.0 }
    }
}

/// Exact inversion by coupled transformations (Wallace et al., arXiv 2211.12446, Eq. 14 and 15): two chains, each moved
/// with the ε̂ of the other, then mixed by p; who moves first alternates from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edict {
    /// p in (0, 1]; the inverse multiplies the chains' difference by 1/p² per step. The paper uses 0.93.
    pub mix: f64,
}

impl Default for Edict {
    fn default() -> Self {
        Self { mix: 0.93 }
    }
}

impl Method {
    /// Whether its latents come in pairs.
    pub fn is_paired(&self) -> bool {
        matches!(self, Self::Bdia(_) | Self::Edict(_))
    }

    /// The `name` of the command line: ddim, fixed-point, bdia or edict.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::FixedPoint(_) => "fixed-point",
            Self::Bdia(_) => "bdia",
            Self::Edict(_) => "edict",
        }
    }

    /// Refuses plans and parameters without meaning for it: what [`encode`](super::encode) and
    /// [`decode`](super::decode) check before their first network call.
    ///
    /// # Errors
    /// A plan with noise, or of another solver than DDIM; for the exact methods also clipping, a = 0, or a parameter out
    /// of range.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        plan.check_ddim("inversion")?;
        if !plan.is_deterministic() {
            return Err(Error::argument(
                "a sampler that draws noise has no single latent; give eta 0, or recover its noise as well",
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
                wrong("tolerance", "a positive number", by.tolerance)
            }
            Self::FixedPoint(by) if by.iterations == 0 => wrong("iterations", "at least 1", 0.0),
            Self::Bdia(by) if !(by.gamma > 0.0 && by.gamma <= 1.0) => wrong("gamma", "0 < gamma <= 1", by.gamma),
            Self::Bdia(_) if plan.steps().len() < 2 => wrong("steps of bdia", "at least 2", plan.steps().len() as f64),
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
