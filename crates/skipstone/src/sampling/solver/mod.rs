//! Solvers: numerical methods that step from one noise level to the next.
//!
//! With η = 0 the generative process is the ODE dx̄ = ε̂(x̄/√(σ_ve² + 1)) dσ_ve in x̄ = x/√a and σ_ve = √((1−a)/a)
//! (DDIM Eq. 14). DDIM is its Euler method. The other solvers reach the same images in fewer network calls, except
//! `ve-euler`, which shows the cost of a different Euler method. The best choice depends on the number of calls.
//!
//! A solver is a [`Scheme`]: one function over a [`Step`], and its properties. To add one to the library, write the
//! function in `schemes`, its row and constant here, and its order in the tests. A program can also define its own with
//! [`Solver::new`].

mod schemes;
mod step;

use std::fmt;
use std::str::FromStr;

use ndarray::Array4;

pub use step::Step;

use crate::error::{Error, Result};
use crate::math::sigma;
use crate::sampling::denoiser::Clip;

/// A numerical scheme: its properties and its step function.
#[derive(Debug)]
pub struct Scheme {
    /// Name on the command line and in manifests.
    pub name: &'static str,
    /// Order of convergence: the global error falls with this power of the step size.
    pub order: usize,
    /// Network calls per step. The last step always makes one: networks are never called on clean data.
    pub calls: usize,
    /// Number of earlier network predictions it uses.
    pub memory: usize,
    /// Source of its noise.
    pub noise: NoiseUse,
    /// The view of the prediction that it uses.
    pub follows: Follows,
    /// Computes x_s from x_t, `[n, c, h, w]`.
    pub step: fn(&mut Step<'_>) -> Result<Array4<f32>>,
}

/// The source of a scheme's noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseUse {
    /// None: the scheme follows the deterministic process, so the run must have η = 0.
    None,
    /// The scheme injects the run's σ.
    Run,
    /// The scheme sets its own noise scale, so the run must have η = 0.
    Own,
}

/// The view of a network's prediction that a scheme uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// ε̂ only. Clipping x̂₀ has no effect unless ε̂ is derived from it again.
    Noise,
    /// x̂₀, or both views.
    Data,
}

/// Defaults of the schemes below.
const ODE: Scheme = Scheme {
    name: "",
    order: 1,
    calls: 1,
    memory: 0,
    noise: NoiseUse::None,
    follows: Follows::Noise,
    step: schemes::ddim,
};

static DDIM: Scheme = Scheme { name: "ddim", noise: NoiseUse::Run, follows: Follows::Data, ..ODE };
static VE_EULER: Scheme = Scheme { name: "ve-euler", step: schemes::ve_euler, ..ODE };
static HEUN: Scheme = Scheme { name: "heun", order: 2, calls: 2, step: schemes::heun, ..ODE };
static DPM2: Scheme = Scheme { name: "dpm2", order: 2, calls: 2, step: schemes::dpm2, ..ODE };
static AB2: Scheme = Scheme { name: "ab2", order: 2, memory: 1, step: schemes::adams_bashforth, ..ODE };
static AB3: Scheme = Scheme { name: "ab3", order: 3, memory: 2, step: schemes::adams_bashforth, ..ODE };
static AB4: Scheme = Scheme { name: "ab4", order: 4, memory: 3, step: schemes::adams_bashforth, ..ODE };
static DPM_PLUS_PLUS_2M: Scheme =
    Scheme { name: "dpm++2m", order: 2, memory: 1, follows: Follows::Data, step: schemes::dpm_plus_plus_2m, ..ODE };
static DPM_PLUS_PLUS_2M_SDE: Scheme = Scheme {
    name: "dpm++2m-sde",
    order: 2,
    memory: 1,
    noise: NoiseUse::Own,
    follows: Follows::Data,
    step: schemes::dpm_plus_plus_2m_sde,
    ..ODE
};

static DPM_PLUS_PLUS_3M: Scheme =
    Scheme { name: "dpm++3m", order: 2, memory: 2, follows: Follows::Data, step: schemes::dpm_plus_plus_3m, ..ODE };
static UNIPC: Scheme =
    Scheme { name: "unipc", order: 3, memory: 2, follows: Follows::Data, step: schemes::unipc_2, ..ODE };
static UNIPC3: Scheme =
    Scheme { name: "unipc3", order: 4, memory: 3, follows: Follows::Data, step: schemes::unipc_3, ..ODE };
static DEIS2: Scheme = Scheme { name: "deis2", order: 2, memory: 1, step: schemes::deis, ..ODE };
static DEIS: Scheme = Scheme { name: "deis", order: 3, memory: 2, step: schemes::deis, ..ODE };
static SA: Scheme =
    Scheme { name: "sa", order: 2, memory: 2, noise: NoiseUse::Own, follows: Follows::Data, step: schemes::sa, ..ODE };

/// A solver: a reference to a [`Scheme`].
///
/// ```
/// use skipstone::sampling::solver::Solver;
/// let heun: Solver = "heun".parse()?;
/// assert_eq!((heun, heun.order(), heun.calls(10)), (Solver::HEUN, 2, 19));
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Solver(&'static Scheme);

impl Solver {
    /// DDIM (Eq. 12): Euler in σ_ve, order 1. The only solver that injects the run's noise.
    pub const DDIM: Self = Self(&DDIM);
    /// Euler in σ_ve² on the probability flow of the VE-SDE (DDIM Proposition 1); order 1.
    pub const VE_EULER: Self = Self(&VE_EULER);
    /// Heun's method (Karras et al., arXiv 2206.00364, Alg. 1); order 2. Makes 2S − 1 calls: two per step, one for the
    /// last.
    pub const HEUN: Self = Self(&HEUN);
    /// DPM-Solver-2, the midpoint method in ln σ_ve; order 2. Makes 2S − 1 calls: two per step, one for the last.
    pub const DPM2: Self = Self(&DPM2);
    /// Adams–Bashforth of order 2 on variable step sizes (Liu et al., arXiv 2202.09778, use it on equal ones).
    pub const AB2: Self = Self(&AB2);
    /// Adams–Bashforth of order 3. Its first two steps have orders 1 and 2.
    pub const AB3: Self = Self(&AB3);
    /// Adams–Bashforth of order 4. Its first three steps have orders 1, 2 and 3.
    pub const AB4: Self = Self(&AB4);
    /// DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Alg. 2): multistep on x̂₀ in ln σ_ve; order 2.
    pub const DPM_PLUS_PLUS_2M: Self = Self(&DPM_PLUS_PLUS_2M);
    /// DPM-Solver++(2M) for the stochastic process: order 2 in the mean, with its own noise scale.
    pub const DPM_PLUS_PLUS_2M_SDE: Self = Self(&DPM_PLUS_PLUS_2M_SDE);

    /// DPM-Solver++(3M): as DPM-Solver++(2M), with the parabola through three x̂₀. The published formula gives its second
    /// derivative half of the weight, so the order is 2.
    pub const DPM_PLUS_PLUS_3M: Self = Self(&DPM_PLUS_PLUS_3M);
    /// UniPC-2 (Zhao et al., arXiv 2302.04867), B₂(h), on x̂₀: a predictor of order 2 and a corrector
    /// without calls, which adds an order; order 3.
    pub const UNIPC: Self = Self(&UNIPC);
    /// UniPC-3; order 4.
    pub const UNIPC3: Self = Self(&UNIPC3);
    /// tAB1-DEIS (Zhang & Chen, arXiv 2204.13902): the line in t through two ε̂; order 2.
    pub const DEIS2: Self = Self(&DEIS2);
    /// tAB2-DEIS: the parabola in t through three ε̂; order 3.
    pub const DEIS: Self = Self(&DEIS);
    /// SA-Solver (Xue et al., arXiv 2309.05019): stochastic predictor and corrector of order 2, with noise of its own from
    /// 0.2·T to 0.8·T.
    pub const SA: Self = Self(&SA);

    /// Every solver of the library, in the order the command line lists them.
    pub const ALL: [Self; 15] = [
        Self::DDIM,
        Self::VE_EULER,
        Self::HEUN,
        Self::DPM2,
        Self::AB2,
        Self::AB3,
        Self::AB4,
        Self::DPM_PLUS_PLUS_2M,
        Self::DPM_PLUS_PLUS_2M_SDE,
        Self::DPM_PLUS_PLUS_3M,
        Self::UNIPC,
        Self::UNIPC3,
        Self::DEIS2,
        Self::DEIS,
        Self::SA,
    ];

    /// Makes a solver from a custom scheme.
    ///
    /// ```
    /// use skipstone::sampling::solver::{Follows, NoiseUse, Scheme, Solver};
    /// /// Adds the predicted noise back to the predicted image at the next level: DDIM in two lines.
    /// static MINE: Scheme = Scheme {
    ///     name: "mine",
    ///     order: 1,
    ///     calls: 1,
    ///     memory: 0,
    ///     noise: NoiseUse::None,
    ///     follows: Follows::Data,
    ///     step: |step| {
    ///         let (signal, noise) = (step.to.signal() as f32, step.to.noise() as f32);
    ///         Ok(&step.here.x0 * signal + &step.here.eps * noise)
    ///     },
    /// };
    /// assert_eq!(Solver::new(&MINE).to_string(), "mine");
    /// ```
    pub const fn new(scheme: &'static Scheme) -> Self {
        Self(scheme)
    }

    /// The scheme itself.
    pub const fn scheme(self) -> &'static Scheme {
        self.0
    }

    /// Order of convergence.
    pub const fn order(self) -> usize {
        self.0.order
    }

    /// Number of network calls of a run of `steps` steps.
    pub const fn calls(self, steps: usize) -> usize {
        (self.0.calls * steps).saturating_sub(self.0.calls - 1)
    }

    /// Checks that this solver supports the run.
    ///
    /// # Errors
    /// For every solver but DDIM: a step injects noise, the run starts at zero SNR, where σ_ve is infinite, or the solver
    /// uses only ε̂ and `clip` leaves ε̂ unchanged.
    pub fn check(self, steps: &[sigma::Step], clip: Clip) -> Result<()> {
        if self == Self::DDIM {
            return Ok(());
        }
        let asks_for_noise = steps.iter().any(|step| step.sigma != 0.0 || step.coefficients.z != 0.0);
        match self.0.noise {
            NoiseUse::None if asks_for_noise => {
                return Err(Error::argument(format!(
                    "solver {self}: follows the deterministic process, so it needs eta = 0; remove the noise, or choose \
                     solver ddim"
                )));
            }
            NoiseUse::Own if asks_for_noise => {
                return Err(Error::argument(format!(
                    "solver {self}: sets its own noise, so it needs eta = 0; remove the noise, or choose solver ddim"
                )));
            }
            NoiseUse::None | NoiseUse::Own | NoiseUse::Run => {}
        }
        if let Some(step) = steps.iter().find(|step| step.from.alpha_bar == 0.0) {
            return Err(Error::argument(format!(
                "solver {self}: sigma_ve = sqrt((1 - a)/a) is infinite at t = {} (zero terminal SNR); choose solver \
                 ddim, or start at a smaller t",
                step.t
            )));
        }
        if matches!(clip, Clip::KeepEps(_)) && self.0.follows == Follows::Noise {
            return Err(Error::argument(format!(
                "solver {self}: uses only the predicted noise, which clip keep-eps leaves unchanged; choose clip off or \
                 rederive-eps"
            )));
        }
        Ok(())
    }
}

impl Default for Solver {
    /// DDIM.
    fn default() -> Self {
        Self::DDIM
    }
}

// Manifests and command lines identify a solver by its name.
impl PartialEq for Solver {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Solver {}

impl fmt::Debug for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Solver({})", self.0.name)
    }
}

impl fmt::Display for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl FromStr for Solver {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|solver| solver.0.name == name).ok_or_else(|| {
            let names = Self::ALL.map(|solver| solver.0.name).join(", ");
            Error::argument(format!("solver \"{name}\": expected one of {names}"))
        })
    }
}

#[cfg(test)]
mod tests;
