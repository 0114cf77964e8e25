//! The cells of a table of evaluations: every combination of the listed options.

use std::fmt;

use skipstone::error::{Error, Result};
use skipstone::sampling::options::{ClipMode, Noise, Request, SpacingChoice};
use skipstone::sampling::solver::Solver;

/// A cell: the options in which cells differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Number of steps S.
    pub steps: usize,
    /// σ.
    pub noise: Noise,
    /// The spacing; `None` is the model's.
    pub spacing: Option<SpacingChoice>,
    /// The solver.
    pub solver: Solver,
    /// How x̂₀ is clipped; `None` is the model's way.
    pub clip: Option<ClipMode>,
}

impl fmt::Display for Cell {
    /// [`line`](Cell::line) and S. Outside a table, a number is said to be η.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let eta = if matches!(self.noise, Noise::Eta(_)) { "eta " } else { "" };
        write!(f, "{eta}{}, S = {}", self.line(), self.steps)
    }
}

impl Cell {
    /// The name of its line of the table: noise, spacing, solver and clipping as given.
    pub fn line(&self) -> String {
        let mut words = vec![self.noise.to_string()];
        words.extend(self.spacing.as_ref().map(ToString::to_string));
        words.extend((self.solver != Solver::DDIM).then(|| self.solver.to_string()));
        words.extend(self.clip.map(|clip| match clip {
            ClipMode::Off => "clip off".to_owned(),
            named => named.to_string(),
        }));
        words.join(" ")
    }

    /// The options of the cell's run. Those that all cells share (seed, class, guidance, restart, threshold) come from `common`.
    pub fn request(&self, common: &Request) -> Request {
        Request {
            steps: Some(self.steps),
            times: None,
            spacing: self.spacing.clone(),
            solver: Some(self.solver.into()),
            clip: self.clip,
            noise: self.noise.clone(),
            ..common.clone()
        }
    }
}

/// Lists of options whose combinations are the cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    /// Numbers of steps S.
    pub steps: Vec<usize>,
    /// σ.
    pub noises: Vec<Noise>,
    /// Spacings; if empty, the model's.
    pub spacings: Vec<SpacingChoice>,
    /// Solvers. Those other than DDIM only take the rows without noise.
    pub solvers: Vec<Solver>,
    /// Ways to clip; if empty, the model's.
    pub clips: Vec<ClipMode>,
}

impl Lists {
    /// The numbers of steps of a model whose scheduler names `own`, because it was distilled for so many.
    pub fn usual_steps(own: Option<usize>) -> Vec<usize> {
        own.map_or_else(|| vec![10, 20, 50, 100], |own| vec![own])
    }

    /// Every combination once. S varies fastest.
    ///
    /// # Errors
    /// A list is empty, S is 0, or a solver has no row because all rows have noise.
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
                    let noises: Vec<Noise> = self.noises.iter().filter(takes).cloned().collect();
                    if noises.is_empty() {
                        return Err(Error::argument(format!(
                            "solver {solver}: needs eta 0, because it follows the deterministic process; add 0 to the etas"
                        )));
                    }
                    for noise in noises {
                        for &steps in &self.steps {
                            let (noise, spacing) = (noise.clone(), spacing.clone());
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

/// Each item, or a single `None` if there are none.
fn optional<T: Clone>(items: &[T]) -> Vec<Option<T>> {
    if items.is_empty() { vec![None] } else { items.iter().cloned().map(Some).collect() }
}

#[cfg(test)]
mod tests {
    use skipstone::math::trajectory::Spacing;

    use super::*;

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
        let short: Vec<_> = cells.iter().map(|c| (c.solver, &c.noise, c.steps)).collect();
        let (zero, hat) = (&Noise::Eta(0.0), &Noise::Hat);
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
        let common = Request { seed: 7, class: vec![3], ..Request::default() };
        let cell = Cell {
            steps: 20,
            noise: Noise::Analytic { eta: 1.0 },
            spacing: Some(Spacing::Quadratic.into()),
            solver: Solver::DDIM,
            clip: None,
        };
        let request = cell.request(&common);
        assert_eq!((request.steps, request.seed, request.class), (Some(20), 7, vec![3]));
        assert_eq!(request.noise, Noise::Analytic { eta: 1.0 });
        let hat = Cell { noise: Noise::Hat, ..cell }.request(&common);
        assert_eq!(hat.noise, Noise::Hat);
    }
}
