//! Solvers: how a run steps from one noise level to the next with the network it has.
//!
//! With η = 0 the generative process is the ODE dx̄ = ε̂(x̄/√(σ_ve² + 1)) dσ_ve in x̄ = x/√a and σ_ve = √((1−a)/a)
//! (DDIM Eq. 14). DDIM is its Euler method; the others reach the same images in fewer network calls, or (`ve-euler`)
//! show what a different Euler method costs. Which one is best depends on how few calls there are.
//!
//! A solver is one function over a [`Step`] and a row in a table, a [`Scheme`]. To add one to the library, write the
//! function in `schemes`, its row and constant here, and its order in the tests. A program can also bring its own, see
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

/// A numerical scheme: what a run has to know about it, and the step itself.
#[derive(Debug)]
pub struct Scheme {
    /// The name on the command line and in manifests.
    pub name: &'static str,
    /// The power of the step size with which the error falls.
    pub order: usize,
    /// Network calls of a step. The last step makes one, as no network can be asked about clean data.
    pub calls: usize,
    /// How many earlier answers of the network it reads.
    pub memory: usize,
    /// Where its noise comes from.
    pub noise: NoiseUse,
    /// Which view of the network's answer it follows.
    pub follows: Follows,
    /// x_s from x_t.
    pub step: fn(&mut Step<'_>) -> Result<Array4<f32>>,
}

/// Where a scheme's noise comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseUse {
    /// It follows the deterministic process, so the run must have η = 0.
    None,
    /// It injects the σ of the run.
    Run,
    /// It injects an amount of its own, so the run must not ask for another.
    Own,
}

/// The view of the network's answer that a scheme follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// ε̂ alone: clipping x̂₀ without deriving ε̂ again would change nothing.
    Noise,
    /// x̂₀, or both views.
    Data,
}

/// What every scheme of the table below starts from.
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

/// How a run steps from one time to the next: a [`Scheme`] by reference.
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
    /// DDIM (Eq. 12): Euler in σ_ve, order 1. It alone injects the noise that a run asks for.
    pub const DDIM: Self = Self(&DDIM);
    /// Euler on the probability flow of the VE-SDE as Proposition 1 writes it, in σ_ve²; order 1.
    pub const VE_EULER: Self = Self(&VE_EULER);
    /// Heun's method (Karras et al., arXiv 2206.00364, Alg. 1); order 2. Two calls a step, one for the last: 2S − 1.
    pub const HEUN: Self = Self(&HEUN);
    /// The midpoint method in ln σ_ve, DPM-Solver-2; order 2. Two calls a step, one for the last: 2S − 1.
    pub const DPM2: Self = Self(&DPM2);
    /// Adams–Bashforth of order 2 on variable steps, as Liu et al. (arXiv 2202.09778) use it on even ones.
    pub const AB2: Self = Self(&AB2);
    /// Adams–Bashforth of order 3; its first two steps are of orders 1 and 2.
    pub const AB3: Self = Self(&AB3);
    /// Adams–Bashforth of order 4; its first three steps are of orders 1, 2 and 3.
    pub const AB4: Self = Self(&AB4);
    /// DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Alg. 2): multistep in log σ_ve on x̂₀; order 2.
    pub const DPM_PLUS_PLUS_2M: Self = Self(&DPM_PLUS_PLUS_2M);
    /// DPM-Solver++(2M) for the stochastic process: order 2 in the mean, with noise of its own.
    pub const DPM_PLUS_PLUS_2M_SDE: Self = Self(&DPM_PLUS_PLUS_2M_SDE);

    /// Every solver of the library, in the order the command line lists them.
    pub const ALL: [Self; 9] = [
        Self::DDIM,
        Self::VE_EULER,
        Self::HEUN,
        Self::DPM2,
        Self::AB2,
        Self::AB3,
        Self::AB4,
        Self::DPM_PLUS_PLUS_2M,
        Self::DPM_PLUS_PLUS_2M_SDE,
    ];

    /// A solver of one's own.
    ///
    /// ```
    /// use skipstone::sampling::solver::{Follows, NoiseUse, Scheme, Solver};
    /// /// Lands on the predicted image at the next level, with the noise the network saw: DDIM in two lines.
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

    /// What it is.
    pub const fn scheme(self) -> &'static Scheme {
        self.0
    }

    /// The power of the step size with which the error falls.
    pub const fn order(self) -> usize {
        self.0.order
    }

    /// Network calls of a run of so many steps.
    pub const fn calls(self, steps: usize) -> usize {
        (self.0.calls * steps).saturating_sub(self.0.calls - 1)
    }

    /// Refuses a run that this solver cannot make.
    ///
    /// # Errors
    /// For every solver but DDIM: steps that inject noise, a start at zero SNR where σ_ve is infinite, and clipping
    /// that leaves ε̂ untouched for a solver that follows ε̂ alone.
    pub fn check(self, steps: &[sigma::Step], clip: Clip) -> Result<()> {
        if self == Self::DDIM {
            return Ok(());
        }
        let asks_for_noise = steps.iter().any(|step| step.sigma != 0.0 || step.coefficients.z != 0.0);
        match self.0.noise {
            NoiseUse::None if asks_for_noise => {
                return Err(Error::argument(format!(
                    "solver {self}: follows the deterministic process, so it needs eta = 0; leave the noise out, or \
                     choose solver ddim"
                )));
            }
            NoiseUse::Own if asks_for_noise => {
                return Err(Error::argument(format!(
                    "solver {self}: injects noise of its own, so it needs eta = 0; leave the noise out, or choose \
                     solver ddim"
                )));
            }
            NoiseUse::None | NoiseUse::Own | NoiseUse::Run => {}
        }
        if let Some(step) = steps.iter().find(|step| step.from.alpha_bar == 0.0) {
            return Err(Error::argument(format!(
                "solver {self}: sigma_ve = sqrt((1 - a)/a) is infinite at t = {} (zero terminal SNR); choose solver \
                 ddim, or times below it",
                step.t
            )));
        }
        if matches!(clip, Clip::KeepEps(_)) && self.0.follows == Follows::Noise {
            return Err(Error::argument(format!(
                "solver {self}: follows the predicted noise alone, which clip keep-eps leaves as it is; choose clip off \
                 or rederive-eps"
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

// A solver is its name: manifests and command lines know nothing else.
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
