use std::fmt;
use std::str::FromStr;

use super::text::choose;
use crate::error::Result;
use crate::sampling::sampler::Plan;
use crate::sampling::solver::Solver;

/// The solver of a run: one by name, or the one that suits the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SolverChoice {
    /// The best solver that makes one call per step and supports the run; see [`SolverChoice::settle`].
    Auto,
    /// This solver.
    Named(Solver),
}

impl SolverChoice {
    /// Every choice, in the order the command line lists them.
    pub fn all() -> Vec<Self> {
        Solver::ALL.into_iter().map(Self::Named).chain([Self::Auto]).collect()
    }

    /// The solver of a run over `plan`.
    ///
    /// [`Auto`](Self::Auto) is `deis`, which of all solvers with one call per step follows the deterministic process most closely
    /// at 10, 20 and 50 steps, or `unipc3` with fewer than 6 steps, where that does, or where the run does not allow `deis`
    /// (`docs/guide/solvers.md`). Where it allows neither, it is `ddim`, which takes noise and a start at zero SNR.
    pub fn settle(self, plan: &Plan) -> Solver {
        match self {
            Self::Named(solver) => solver,
            Self::Auto if plan.steps().len() < 6 => plan.first_allowed(&[Solver::UNIPC3]),
            Self::Auto => plan.first_allowed(&[Solver::DEIS, Solver::UNIPC3]),
        }
    }
}

impl From<Solver> for SolverChoice {
    fn from(solver: Solver) -> Self {
        Self::Named(solver)
    }
}

impl fmt::Display for SolverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(solver) => solver.fmt(f),
        }
    }
}

impl FromStr for SolverChoice {
    type Err = crate::Error;

    fn from_str(name: &str) -> Result<Self> {
        choose("solver", name, &Self::all())
    }
}
