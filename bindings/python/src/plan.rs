//! The steps of a run with their coefficients.

use pyo3::prelude::*;
use skipstone::sampling::denoiser::{Bound as ClipBound, Clip};
use skipstone::sampling::sampler::Plan;
use skipstone::sampling::solver::Solver;

use crate::denoiser::index;
use crate::errors::value;

/// One step of a plan: x_s = x0·x̂0 + eps·ε̂ + z·z, everything in float64.
///
/// Attributes:
///     t: network index of the call.
///     s: network index on which it lands; None for clean data.
///     a_t, a_s: signal levels (alpha of the DDIM paper) at t and s; one_minus_a_t: 1 − a_t to its last digit.
///     sigma: σ inside the coefficient of ε̂.
///     x0, eps, z: coefficients of the predicted image, the predicted noise and fresh noise.
///     least_z: with sigma="learned", the other end of the range of σ; otherwise None.
///     clip: None, or (how, low, high): "keep-eps" or "rederive-eps" at low..high.
#[pyclass(module = "skipstone", frozen, get_all)]
pub struct PlanStep {
    t: Py<PyAny>,
    s: Py<PyAny>,
    a_t: f64,
    a_s: f64,
    sigma: f64,
    x0: f64,
    eps: f64,
    z: f64,
    least_z: Option<f64>,
    clip: Option<(&'static str, f64, f64)>,
    one_minus_a_t: f64,
}

#[pymethods]
impl PlanStep {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (t, s) = (self.t.bind(py).str()?, self.s.bind(py).str()?);
        Ok(format!("PlanStep(t={t}, s={s}, x0={}, eps={}, z={})", self.x0, self.eps, self.z))
    }
}

impl PlanStep {
    /// The steps of a DDIM run.
    pub fn all(py: Python<'_>, plan: &Plan) -> PyResult<Vec<Self>> {
        if plan.solver() != Solver::DDIM {
            return Err(value(format!("solver {}: only steps of ddim have such coefficients", plan.solver())));
        }
        let clip = match plan.clip() {
            Clip::Off => None,
            Clip::KeepEps(ClipBound::Range(range)) => Some(("keep-eps", -range, range)),
            Clip::RederiveEps(ClipBound::Range(range)) => Some(("rederive-eps", -range, range)),
            Clip::KeepEps(_) | Clip::RederiveEps(_) => {
                return Err(value("threshold: a plan holds fixed bounds only; leave it out, or set clip"));
            }
        };
        let step = |step: &skipstone::math::sigma::Step| {
            Ok(Self {
                t: index(py, step.t.index())?,
                s: index(py, step.s.index())?,
                a_t: step.from.alpha_bar,
                a_s: step.to.alpha_bar,
                sigma: step.sigma,
                x0: step.coefficients.x0,
                eps: step.coefficients.eps,
                z: step.coefficients.z,
                least_z: step.coefficients.least_z,
                clip,
                one_minus_a_t: step.from.one_minus,
            })
        };
        plan.steps().iter().map(step).collect()
    }
}
