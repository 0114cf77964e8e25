use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::math::schedule::linspace;

/// A named rule for picking S timesteps or noise levels. Each reproduces its source exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spacing {
    /// t = ⌊T·i/S⌋ for i = 1..=S (DDIM D.2). Always reaches T.
    Linear,
    /// t = ⌊T·i²/S²⌋ (DDIM D.2, the paper's CIFAR-10 rows), zeros dropped. Always reaches T.
    Quadratic,
    /// Index i·⌊T/S⌋ + offset for i = 0..S (diffusers).
    Leading,
    /// Index round(T − i·T/S) − 1 (diffusers). Always reaches T.
    Trailing,
    /// Index round(i·(T−1)/(S−1)) (diffusers). Reaches T for S > 1; S = 1 gives index 0.
    Linspace,
    /// Indices 0, ⌊T/S⌋, 2⌊T/S⌋, … below T (the authors' code). Makes more than S calls where S does not divide T.
    OfficialUniform,
    /// Index ⌊x²⌋ with x equally spaced over 0..=√(0.8·T) (the authors' code).
    OfficialQuad,
    /// σ_ve^(1/7) equally spaced from T to t = 1 (Karras et al., arXiv 2206.00364, Eq. 5 with ρ = 7). Timesteps lie
    /// between the trained ones.
    Karras,
    /// ln σ_ve, hence the log signal-to-noise ratio, equally spaced from T to t = 1. Timesteps lie between the trained
    /// ones.
    LogSnr,
}

impl Spacing {
    /// Every spacing, in the order the command line lists them.
    pub const ALL: [Self; 9] = [
        Self::Linear,
        Self::Quadratic,
        Self::Leading,
        Self::Trailing,
        Self::Linspace,
        Self::OfficialUniform,
        Self::OfficialQuad,
        Self::Karras,
        Self::LogSnr,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Quadratic => "quadratic",
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
            Self::OfficialUniform => "official-uniform",
            Self::OfficialQuad => "official-quad",
            Self::Karras => "karras",
            Self::LogSnr => "logsnr",
        }
    }

    /// ln σ_ve of S levels, from `first` at T down to `last` at t = 1. `None` for spacings by timestep.
    pub(super) fn levels(self, steps: usize, first: f64, last: f64) -> Option<Vec<f64>> {
        match self {
            Self::Karras => {
                const RHO: f64 = 7.0;
                let [first, last] = [first, last].map(|log_sigma| (log_sigma / RHO).exp());
                Some(linspace(first, last, steps).map(|root| RHO * root.ln()).collect())
            }
            Self::LogSnr => Some(linspace(first, last, steps).collect()),
            _ => None,
        }
    }

    /// The paper's timesteps in ascending order, possibly repeated, for 1 ≤ S ≤ T. Only an offset can push one beyond T.
    /// `None` for spacings by noise level.
    pub(super) fn times(self, steps: u32, train_steps: u32, steps_offset: u32) -> Option<Vec<u64>> {
        let (s, t) = (u64::from(steps), u64::from(train_steps));
        let (s_f, t_f) = (f64::from(steps), f64::from(train_steps));
        Some(match self {
            // Integers: ⌊T·(i/S)²⌋ in floats misses T for 132 of 1000 values of S.
            Self::Linear => (1..=s).map(|i| t * i / s).collect(),
            Self::Quadratic => (1..=s).map(|i| t * i * i / (s * s)).filter(|&time| time > 0).collect(),
            Self::Leading => (0..s).map(|i| i * (t / s) + u64::from(steps_offset) + 1).collect(),
            // numpy's arange computes the step this way; the same float error makes halves round the same way.
            Self::Trailing => {
                let delta = (t_f - t_f / s_f) - t_f;
                (0..steps).rev().map(|i| (t_f + f64::from(i) * delta).round_ties_even() as u64).collect()
            }
            Self::Linspace => {
                linspace(0.0, t_f - 1.0, steps as usize).map(|index| index.round_ties_even() as u64 + 1).collect()
            }
            Self::OfficialUniform => (0..t).step_by((t / s) as usize).map(|index| index + 1).collect(),
            Self::OfficialQuad => {
                linspace(0.0, (t_f * 0.8).sqrt(), steps as usize).map(|x| (x * x) as u64 + 1).collect()
            }
            Self::Karras | Self::LogSnr => return None,
        })
    }
}

impl fmt::Display for Spacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Spacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|spacing| spacing.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::argument(format!("spacing \"{name}\": expected one of {names}"))
        })
    }
}
