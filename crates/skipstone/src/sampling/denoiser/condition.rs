use crate::error::{Error, Result};

/// The condition of one row of a batch, besides the timestep.
///
/// ```
/// use skipstone::sampling::denoiser::Condition;
/// assert_eq!(Condition::classes(&[3, 1]), [Condition::Class(3), Condition::Class(1)]);
/// assert_eq!(Condition::default(), Condition::Null);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Condition {
    /// No condition, the only one an unconditional network accepts.
    #[default]
    Null,
    /// A class, as a row of the network's class table. In a network trained with dropped classes, one row is the null
    /// class.
    Class(usize),
}

impl Condition {
    /// One condition per class.
    pub fn classes(classes: &[usize]) -> Vec<Self> {
        classes.iter().copied().map(Self::Class).collect()
    }

    /// The class, if there is one.
    pub const fn class(self) -> Option<usize> {
        match self {
            Self::Null => None,
            Self::Class(class) => Some(class),
        }
    }
}

/// One condition for each of `n` rows. An empty list means [`Condition::Null`] for every row.
///
/// # Errors
/// The number of conditions is neither 0 nor n.
pub(crate) fn per_row(conditions: &[Condition], n: usize) -> Result<Vec<Condition>> {
    check_count(conditions, n)?;
    Ok(if conditions.is_empty() { vec![Condition::Null; n] } else { conditions.to_vec() })
}

/// Refuses a number of conditions other than 0 and `n`.
pub(crate) fn check_count(conditions: &[Condition], n: usize) -> Result<()> {
    if conditions.is_empty() || conditions.len() == n {
        return Ok(());
    }
    Err(Error::argument(format!("conditions: expected one per image, {n}, found {}", conditions.len())))
}

/// The class of every row of a batch of `n` for a network with `known` classes, or `None` for an unconditional network.
///
/// ```
/// use skipstone::sampling::denoiser::{Condition, classes};
/// assert_eq!(classes(&[Condition::Class(2)], 1, Some(3))?, Some(vec![2]));
/// assert_eq!(classes(&[], 4, None)?, None);
/// assert!(classes(&[Condition::Class(2)], 1, None).is_err());
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The number of conditions is neither 0 nor n, or the network does not accept one of them.
pub fn classes(conditions: &[Condition], n: usize, known: Option<usize>) -> Result<Option<Vec<usize>>> {
    let rows = per_row(conditions, n)?;
    let Some(known) = known else {
        return match rows.iter().find_map(|condition| condition.class()) {
            Some(class) => {
                Err(Error::argument(format!("class: the network is unconditional, but a class ({class}) was given")))
            }
            None => Ok(None),
        };
    };
    let class = |condition: &Condition| match condition.class() {
        Some(class) if class < known => Ok(class),
        Some(class) => Err(Error::argument(format!("class: expected 0 to {}, found {class}", known - 1))),
        None => Err(Error::argument(format!("class: the network needs one of its {known} classes, found none"))),
    };
    rows.iter().map(class).collect::<Result<_>>().map(Some)
}
