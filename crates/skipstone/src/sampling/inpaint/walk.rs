use crate::error::{Error, Result};

/// One move of a filling through the states of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The plan's step of this index, from 0: a network call.
    Down(usize),
    /// Diffusion from the state after `from` steps back to the state after `to` steps, `to` < `from`.
    Up {
        /// Steps done before.
        from: usize,
        /// Steps done afterwards.
        to: usize,
    },
}

/// How often a stretch of the way down is gone through: RePaint's r and j.
///
/// ```
/// use skipstone::sampling::inpaint::Resampling;
/// assert_eq!(Resampling::PROJECTION.calls(50)?, 50);
/// assert_eq!(Resampling { jump: 10, resamples: 10 }.calls(250)?, 2410);
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resampling {
    /// j: how many steps a jump goes back up.
    pub jump: usize,
    /// r: how often each stretch is gone through; 1 is the simple projection.
    pub resamples: usize,
}

impl Resampling {
    /// Straight down, the known part put in after every step.
    pub const PROJECTION: Self = Self { jump: 1, resamples: 1 };

    /// The moves of a run of so many steps, RePaint's appendix: where 1, 1 + j, 1 + 2j, … steps remain, as long as
    /// there is room, the state goes j steps back up, r − 1 times each.
    ///
    /// # Errors
    /// A jump or a number of resamples of 0, or more moves than anyone could wait for.
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

    /// The network calls of a run of so many steps.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    pub fn calls(self, steps: usize) -> Result<usize> {
        const MOST: usize = 10_000_000;
        if self.jump == 0 || self.resamples == 0 {
            return Err(Error::argument(format!(
                "resampling: expected a jump and a number of resamples of at least 1, found {} and {}",
                self.jump, self.resamples
            )));
        }
        let places = steps.saturating_sub(1) / self.jump;
        let calls = places.saturating_mul(self.resamples - 1).saturating_mul(self.jump).saturating_add(steps);
        if calls > MOST {
            return Err(Error::argument(format!("resampling: {calls} network calls, more than {MOST}")));
        }
        Ok(calls)
    }

    /// Jumps from the state with so many steps remaining.
    fn ups(self, remaining: usize, steps: usize) -> usize {
        let there = remaining >= 1 && (remaining - 1).is_multiple_of(self.jump) && remaining + self.jump <= steps;
        if there { self.resamples - 1 } else { 0 }
    }
}
