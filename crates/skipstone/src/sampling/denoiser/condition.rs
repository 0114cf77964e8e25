use crate::error::{Error, Result};

/// What a network is conditioned on besides the time, for one row of a batch.
///
/// ```
/// use skipstone::sampling::denoiser::Condition;
/// assert_eq!(Condition::classes(&[3, 1]), [Condition::Class(3), Condition::Class(1)]);
/// assert_eq!(Condition::default(), Condition::Null);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Nothing: the only condition an unconditional network knows.
    #[default]
    Null,
    /// A class, by its row in the network's table. A network trained with dropped classes has a class that stands for
    /// "none" in that table.
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

/// One condition for each of `n` rows; an empty list stands for [`Condition::Null`] everywhere.
///
/// # Errors
/// Another number of conditions than rows.
pub(crate) fn per_row(conditions: &[Condition], n: usize) -> Result<Vec<Condition>> {
    check_count(conditions, n)?;
    Ok(if conditions.is_empty() { vec![Condition::Null; n] } else { conditions.to_vec() })
}

/// Refuses another number of conditions than rows; an empty list fits any number.
pub(super) fn check_count(conditions: &[Condition], n: usize) -> Result<()> {
    if conditions.is_empty() || conditions.len() == n {
        return Ok(());
    }
    Err(Error::argument(format!("conditions: expected one per image, {n}, found {}", conditions.len())))
}

/// The class of every row for a network that takes `known` classes, or nothing for an unconditional one.
///
/// # Errors
/// A condition that the network does not know.
pub(crate) fn classes(conditions: &[Condition], n: usize, known: Option<usize>) -> Result<Option<Vec<usize>>> {
    let rows = per_row(conditions, n)?;
    let Some(known) = known else {
        return match rows.iter().find_map(|condition| condition.class()) {
            Some(_) => Err(Error::argument("the network is unconditional: it takes no class")),
            None => Ok(None),
        };
    };
    let class = |condition: &Condition| match condition.class() {
        Some(class) if class < known => Ok(class),
        Some(class) => Err(Error::argument(format!("class {class}; the network knows 0 to {}", known - 1))),
        None => Err(Error::argument(format!("the network is conditioned on {known} classes and none was given"))),
    };
    rows.iter().map(class).collect::<Result<_>>().map(Some)
}
