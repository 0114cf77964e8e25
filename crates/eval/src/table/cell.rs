//! The cells of a table of evaluations: every combination of what a run is laid out by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use skipstone::error::{Error, Result};
use skipstone::generate::{ClipMode, Request, SpacingChoice, Variance};
use skipstone::sigma::NoiseScale;
use skipstone::solver::Solver;

/// The noise of a row: a member of the η-family (DDIM Eq. 16) or a variance with a name.
///
/// ```
/// use skipstone_eval::table::Noise;
/// let rows: Vec<Noise> = ["0", "0.2", "hat", "analytic"].iter().map(|name| name.parse().unwrap()).collect();
/// assert_eq!(rows, [Noise::Eta(0.0), Noise::Eta(0.2), Noise::Hat, Noise::Analytic]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Name", try_from = "Name")]
pub enum Noise {
    /// σ(η).
    Eta(f64),
    /// σ̂, DDPM's larger variance.
    Hat,
    /// The variance that fits the network best, with λ = σ(1) beneath it (Analytic-DDPM).
    Analytic,
}

/// How a [`Noise`] is written in JSON: a number, or a name.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Name {
    Number(f64),
    Text(String),
}

impl From<Noise> for Name {
    fn from(noise: Noise) -> Self {
        match noise {
            Noise::Eta(eta) => Self::Number(eta),
            named => Self::Text(named.to_string()),
        }
    }
}

impl TryFrom<Name> for Noise {
    type Error = Error;

    fn try_from(name: Name) -> Result<Self> {
        match name {
            Name::Number(eta) => eta.to_string().parse(),
            Name::Text(text) => text.parse(),
        }
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eta(eta) => eta.fmt(f),
            Self::Hat => f.write_str("hat"),
            Self::Analytic => f.write_str("analytic"),
        }
    }
}

impl FromStr for Noise {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "hat" => Ok(Self::Hat),
            "analytic" => Ok(Self::Analytic),
            _ => match text.parse::<f64>() {
                // −0 would be a second name of the same row.
                Ok(eta) if eta.is_finite() && eta >= 0.0 => Ok(Self::Eta(eta.abs())),
                _ => Err(Error::argument(format!(
                    "eta: expected a number of at least 0, hat or analytic, found \"{text}\""
                ))),
            },
        }
    }
}

impl Default for Noise {
    /// DDIM.
    fn default() -> Self {
        Self::Eta(0.0)
    }
}

/// One cell: how its images are drawn, as far as cells differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// S.
    pub steps: usize,
    /// σ.
    pub noise: Noise,
    /// How the S times are picked; `None` leaves it to the model.
    pub spacing: Option<SpacingChoice>,
    /// How a deterministic run steps.
    pub solver: Solver,
    /// What becomes of x̂₀; `None` leaves it to the model.
    pub clip: Option<ClipMode>,
}

impl Cell {
    /// The cell's run; what cells share (seed, class, guidance, threshold) comes from `common`.
    pub fn request(&self, common: &Request) -> Request {
        let (scale, variance) = match self.noise {
            Noise::Eta(eta) => (NoiseScale::Eta(eta), Variance::Chosen),
            Noise::Hat => (NoiseScale::Hat, Variance::Chosen),
            Noise::Analytic => (NoiseScale::Eta(1.0), Variance::Analytic),
        };
        Request {
            steps: Some(self.steps),
            times: None,
            spacing: self.spacing,
            solver: self.solver,
            clip: self.clip,
            scale,
            variance,
            ..common.clone()
        }
    }
}

/// The lists whose combinations are the cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    /// S.
    pub steps: Vec<usize>,
    /// σ.
    pub noises: Vec<Noise>,
    /// Spacings; empty leaves it to the model.
    pub spacings: Vec<SpacingChoice>,
    /// Solvers; those other than DDIM take the rows without noise only.
    pub solvers: Vec<Solver>,
    /// Clippings; empty leaves it to the model.
    pub clips: Vec<ClipMode>,
}

impl Lists {
    /// Every combination once, row by row: S runs fastest.
    ///
    /// # Errors
    /// An empty list, S = 0, or a solver that has nothing to do because every row has noise.
    pub fn cells(&self) -> Result<Vec<Cell>> {
        if let Some(steps) = self.steps.iter().find(|&&steps| steps == 0) {
            return Err(Error::argument(format!("steps: expected at least 1, found {steps}")));
        }
        let lengths = [("steps", self.steps.len()), ("eta", self.noises.len()), ("solver", self.solvers.len())];
        if let Some((name, _)) = lengths.iter().find(|(_, length)| *length == 0) {
            return Err(Error::argument(format!("{name}: expected at least one, found none")));
        }
        let mut cells: Vec<Cell> = Vec::new();
        for spacing in optional(&self.spacings) {
            for clip in optional(&self.clips) {
                for &solver in &self.solvers {
                    let takes = |noise: &&Noise| solver == Solver::DDIM || **noise == Noise::Eta(0.0);
                    let noises: Vec<Noise> = self.noises.iter().filter(takes).copied().collect();
                    if noises.is_empty() {
                        return Err(Error::argument(format!(
                            "solver {solver}: follows the deterministic process; put 0 among the etas"
                        )));
                    }
                    for noise in noises {
                        for &steps in &self.steps {
                            let cell = Cell { steps, noise, spacing, solver, clip };
                            if !cells.contains(&cell) {
                                cells.push(cell);
                            }
                        }
                    }
                }
            }
        }
        Ok(cells)
    }
}

/// Each item, or once nothing.
fn optional<T: Copy>(items: &[T]) -> Vec<Option<T>> {
    if items.is_empty() { vec![None] } else { items.iter().copied().map(Some).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skipstone::trajectory::Spacing;

    fn lists() -> Lists {
        Lists {
            steps: vec![10, 20, 10],
            noises: vec![Noise::Eta(0.0), Noise::Hat],
            spacings: Vec::new(),
            solvers: vec![Solver::DDIM, Solver::HEUN],
            clips: Vec::new(),
        }
    }

    #[test]
    fn cells_are_all_combinations_once_and_other_solvers_take_the_rows_without_noise() {
        let cells = lists().cells().unwrap();
        let short: Vec<_> = cells.iter().map(|c| (c.solver, c.noise, c.steps)).collect();
        let (zero, hat) = (Noise::Eta(0.0), Noise::Hat);
        assert_eq!(
            short,
            [
                (Solver::DDIM, zero, 10),
                (Solver::DDIM, zero, 20),
                (Solver::DDIM, hat, 10),
                (Solver::DDIM, hat, 20),
                (Solver::HEUN, zero, 10),
                (Solver::HEUN, zero, 20),
            ]
        );
        let spacings = vec![Spacing::Linear.into(), Spacing::Quadratic.into()];
        let clips = vec![ClipMode::Off, ClipMode::RederiveEps];
        assert_eq!(Lists { spacings, clips, ..lists() }.cells().unwrap().len(), 24);
    }

    #[test]
    fn lists_without_meaning_are_refused_by_name() {
        let refused = |lists: Lists, word: &str| {
            let error = lists.cells().unwrap_err();
            assert!(error.message().starts_with(word), "{error}");
        };
        refused(Lists { noises: vec![Noise::Hat], ..lists() }, "solver heun");
        refused(Lists { steps: vec![10, 0], ..lists() }, "steps");
        refused(Lists { steps: Vec::new(), ..lists() }, "steps");
        refused(Lists { noises: Vec::new(), ..lists() }, "eta");
        refused(Lists { solvers: Vec::new(), ..lists() }, "solver");
    }

    #[test]
    fn a_cell_asks_for_the_run_its_row_and_column_name() {
        let common = Request { seed: 7, class: Some(3), ..Request::default() };
        let cell = Cell {
            steps: 20,
            noise: Noise::Analytic,
            spacing: Some(Spacing::Quadratic.into()),
            solver: Solver::DDIM,
            clip: None,
        };
        let request = cell.request(&common);
        assert_eq!((request.steps, request.seed, request.class), (Some(20), 7, Some(3)));
        assert_eq!((request.scale, request.variance), (NoiseScale::Eta(1.0), Variance::Analytic));
        let hat = Cell { noise: Noise::Hat, ..cell }.request(&common);
        assert_eq!((hat.scale, hat.variance), (NoiseScale::Hat, Variance::Chosen));
    }

    #[test]
    fn noise_is_a_number_or_a_name_in_text_and_in_json() {
        for (text, json) in [("0", "0.0"), ("0.2", "0.2"), ("hat", "\"hat\""), ("analytic", "\"analytic\"")] {
            let noise: Noise = text.parse().unwrap();
            assert_eq!(noise.to_string(), text);
            assert_eq!(serde_json::to_string(&noise).unwrap(), json);
            assert_eq!(serde_json::from_str::<Noise>(json).unwrap(), noise);
        }
        for text in ["", "-0.1", "nan", "inf", "sigma"] {
            assert!(text.parse::<Noise>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Noise>("-1").is_err());
    }
}
