use crate::error::{Error, Result};

/// One move of an inpainting run through the states of its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The plan's step with this index, counted from 0: one network call.
    Down(usize),
    /// Diffusion from the state after `from` steps back to the state after `to` steps, `to` < `from`.
    Up {
        /// Steps done before the move.
        from: usize,
        /// Steps done after the move.
        to: usize,
    },
}

/// RePaint's resampling parameters r and j: how often each stretch of the run is repeated, and its length.
///
/// ```
/// use skipstone::sampling::inpaint::Resampling;
/// assert_eq!(Resampling::PROJECTION.calls(50)?, 50);
/// assert_eq!(Resampling { jump: 10, resamples: 10 }.calls(250)?, 2410);
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resampling {
    /// j, the number of steps that a jump goes back up.
    pub jump: usize,
    /// r, how often each stretch is traversed. 1 is plain projection.
    pub resamples: usize,
}

impl Resampling {
    /// No jumps: the known region is replaced after every step.
    pub const PROJECTION: Self = Self { jump: 1, resamples: 1 };

    /// The moves of a run of `steps` steps (RePaint's appendix). Where 1, 1 + j, 1 + 2j, … steps remain, the state goes j
    /// steps back up, r − 1 times each, unless that would pass the start.
    ///
    /// # Errors
    /// The jump or the number of resamples is 0, or the run needs more than 10,000,000 network calls.
    pub fn walk(self, steps: usize) -> Result<Vec<Move>> {
        self.calls(steps)?;
        let mut left: Vec<usize> = (0..=steps).map(|remaining| self.ups(remaining, steps)).collect();
        let (mut moves, mut done) = (Vec::new(), 0);
        while done < steps {
            moves.push(Move::Down(done));
            done += 1;
            let remaining = steps - done;
            if left[remaining] > 0 {
                left[remaining] -= 1;
                moves.push(Move::Up { from: done, to: done - self.jump });
                done -= self.jump;
            }
        }
        Ok(moves)
    }

    /// The number of network calls of a run of `steps` steps.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    pub fn calls(self, steps: usize) -> Result<usize> {
        const MOST: usize = 10_000_000;
        if self.jump == 0 || self.resamples == 0 {
            return Err(Error::argument(format!(
                "resampling: expected jump and resamples of at least 1, found {} and {}",
                self.jump, self.resamples
            )));
        }
        let places = steps.saturating_sub(1) / self.jump;
        let calls = places.saturating_mul(self.resamples - 1).saturating_mul(self.jump).saturating_add(steps);
        if calls > MOST {
            return Err(Error::argument(format!(
                "resampling: expected at most {MOST} network calls, found {calls}; lower resamples or the number of steps"
            )));
        }
        Ok(calls)
    }

    /// Number of jumps from the state with `remaining` steps left.
    fn ups(self, remaining: usize, steps: usize) -> usize {
        let jumps_here = remaining >= 1 && (remaining - 1).is_multiple_of(self.jump) && remaining + self.jump <= steps;
        if jumps_here { self.resamples - 1 } else { 0 }
    }
}
