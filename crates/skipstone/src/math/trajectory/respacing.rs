use std::fmt;
use std::str::FromStr;

use super::Trajectory;
use crate::error::{Error, Result};

/// The respacing of improved-diffusion and guided-diffusion (their `timestep_respacing`), which states S itself.
///
/// ```
/// use skipstone::math::trajectory::{Respacing, Trajectory};
/// let times = |text: &str, t| {
///     let tau = Trajectory::respaced(&text.parse::<Respacing>()?, t)?;
///     Ok::<_, skipstone::Error>(tau.times().iter().map(|t| t.get() as u32 - 1).collect::<Vec<_>>())
/// };
/// assert_eq!(times("ddim5", 1000)?, [800, 600, 400, 200, 0]);
/// assert_eq!(times("5", 1000)?, [999, 749, 500, 250, 0]);
/// assert_eq!(times("2,3", 10)?, [9, 7, 5, 4, 0]);
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Respacing {
    /// `ddimS`: indices 0, i, 2i, … with the smallest whole i that gives S of them.
    Stride(u32),
    /// `250` or `10,15,20`: T in as many parts, as equal as possible, with this many indices in each; the first part is the
    /// one with the least noise. The indices are equally spaced from the part's first to its last, and rounded.
    Sections(Vec<u32>),
}

impl Respacing {
    /// S, the number of timesteps.
    pub fn steps(&self) -> usize {
        match self {
            Self::Stride(steps) => *steps as usize,
            Self::Sections(counts) => counts.iter().map(|&count| count as usize).sum(),
        }
    }

    /// The network indices, ascending.
    pub(super) fn indices(&self, train_steps: u32) -> Result<Vec<u32>> {
        match self {
            Self::Stride(steps) => {
                let stride = (1..train_steps.max(2)).find(|stride| train_steps.div_ceil(*stride) == *steps);
                let stride = stride.ok_or_else(|| {
                    Error::argument(format!(
                        "spacing {self}: no whole stride makes {steps} of {train_steps} timesteps; choose another number"
                    ))
                })?;
                Ok((0..train_steps).step_by(stride as usize).collect())
            }
            Self::Sections(counts) => {
                // At most 2³² sections, each with at least one step.
                let sections = counts.len() as u32;
                let (size, longer) = (train_steps / sections, train_steps % sections);
                let mut indices = Vec::new();
                let mut first = 0;
                for (i, &count) in counts.iter().enumerate() {
                    let size = size + u32::from((i as u32) < longer);
                    if count > size {
                        return Err(Error::argument(format!(
                            "spacing {self}: section {} has {size} of the {train_steps} timesteps, fewer than {count}",
                            i + 1
                        )));
                    }
                    let stride = if count > 1 { f64::from(size - 1) / f64::from(count - 1) } else { 1.0 };
                    // Summed and rounded to even as in their code.
                    let mut at = 0.0f64;
                    for _ in 0..count {
                        indices.push(first + at.round_ties_even() as u32);
                        at += stride;
                    }
                    first += size;
                }
                Ok(indices)
            }
        }
    }
}

impl Trajectory {
    /// Builds the trajectory of a respacing over T = `train_steps` timesteps.
    ///
    /// # Errors
    /// No whole stride gives S timesteps, or a section has fewer timesteps than it is asked for.
    pub fn respaced(respacing: &Respacing, train_steps: u32) -> Result<Self> {
        let mut indices = respacing.indices(train_steps)?;
        indices.dedup();
        indices.reverse();
        Self::explicit(&indices, train_steps)
    }
}

impl fmt::Display for Respacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stride(steps) => write!(f, "ddim{steps}"),
            Self::Sections(counts) => f.write_str(&counts.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

impl FromStr for Respacing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.trim().parse().ok().filter(|&n: &u32| n > 0);
        let parsed = match text.strip_prefix("ddim") {
            Some(steps) => number(steps).map(Self::Stride),
            None => text.split(',').map(number).collect::<Option<_>>().map(Self::Sections),
        };
        parsed.ok_or_else(|| {
            Error::argument(format!("spacing \"{text}\": expected ddim25, or numbers of steps such as 250 or 10,15,20"))
        })
    }
}
