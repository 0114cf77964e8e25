//! Restart sampling (Xu et al., arXiv 2306.14878).

use std::ops::Range;

use ndarray::{Array4, Zip};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::math::noise::NoiseSource;
use crate::math::schedule::{NoiseLevel, Time};
use crate::math::sigma::Step;

/// Repeats the steps between two timesteps: when a run reaches the lower one, fresh noise takes it back to the higher one.
///
/// The noise removes errors that the steps before have collected, while the steps themselves stay deterministic. In JSON
/// and on the command line it is the list `low,high,repeats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "[u32; 3]", into = "[u32; 3]")]
pub struct Restart {
    low: u32,
    high: u32,
    repeats: u32,
}

/// The most repetitions; each costs the calls of its steps.
const MOST_REPEATS: u32 = 1000;
/// The most steps of a run with those that are repeated: a plan holds them all.
const MOST_STEPS: usize = 100_000;

impl Restart {
    /// Repeats the steps from network index `high` to `low` `repeats` times.
    ///
    /// # Errors
    /// `low` is not below `high`, or `repeats` is 0 or above 1000.
    pub fn new(low: u32, high: u32, repeats: u32) -> Result<Self> {
        if low >= high {
            return Err(Error::argument(format!(
                "restart: expected a lower and a higher timestep, for example 100,300,2, found {low},{high}"
            )));
        }
        if !(1..=MOST_REPEATS).contains(&repeats) {
            return Err(Error::argument(format!("restart: expected 1 to {MOST_REPEATS} repetitions, found {repeats}")));
        }
        Ok(Self { low, high, repeats })
    }

    /// The steps with the repeated ones, and the jumps between them. A timestep that the run does not visit stands for the
    /// nearest one that it does.
    ///
    /// # Errors
    /// No step of the run lies between the two timesteps, or there are more than 100,000 steps in all.
    pub(super) fn unroll(self, steps: &[Step]) -> Result<(Vec<Step>, Vec<Jump>)> {
        // Step k begins where step k − 1 landed.
        let nearest = |index: u32| {
            let distance = |step: &Step| (step.t.get() - Time::from_index(index).get()).abs();
            (0..steps.len()).min_by(|&a, &b| distance(&steps[a]).total_cmp(&distance(&steps[b])))
        };
        let again = match (nearest(self.high), nearest(self.low)) {
            (Some(high), Some(low)) if high < low => high..low,
            _ => {
                return Err(Error::argument(format!(
                    "restart: the run has no step between the timesteps {} and {}; choose them further apart, or more steps",
                    self.low, self.high
                )));
            }
        };
        let Range { start, end } = again.clone();
        let all = steps.len() + (end - start) * self.repeats as usize;
        if all > MOST_STEPS {
            return Err(Error::argument(format!(
                "restart: the run would have {all} steps, at most {MOST_STEPS} are possible; repeat fewer of them, or less often"
            )));
        }
        let mut unrolled = steps[..end].to_vec();
        let mut jumps = Vec::new();
        for _ in 0..self.repeats {
            jumps.push(Jump { before: unrolled.len(), from: steps[end].from, to: steps[start].from });
            unrolled.extend_from_slice(&steps[again.clone()]);
        }
        unrolled.extend_from_slice(&steps[end..]);
        Ok((unrolled, jumps))
    }
}

impl TryFrom<[u32; 3]> for Restart {
    type Error = Error;

    fn try_from([low, high, repeats]: [u32; 3]) -> Result<Self> {
        Self::new(low, high, repeats)
    }
}

impl From<Restart> for [u32; 3] {
    fn from(Restart { low, high, repeats }: Restart) -> Self {
        [low, high, repeats]
    }
}

/// A return to more noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Jump {
    /// The index of the step that follows.
    pub before: usize,
    from: NoiseLevel,
    to: NoiseLevel,
}

impl Jump {
    /// x_t = √(a_t/a_s)·x_s + √(1 − a_t/a_s)·z, the forward process from s to t. z has the index of the step that follows.
    ///
    /// # Errors
    /// The noise source fails.
    pub fn apply(&self, x: &Array4<f32>, noise: &mut dyn NoiseSource) -> Result<Array4<f32>> {
        let mut z = Array4::zeros(x.dim());
        noise.fill(self.before, &mut z)?;
        let [keep, fresh] = self.to.jump_from(self.from);
        Zip::from(&mut z).and(x).for_each(|z, &x| *z = (keep * f64::from(x) + fresh * f64::from(*z)) as f32);
        Ok(z)
    }
}
