use std::ops::Range;

/// Splits increasing indices into runs of at most `batch` consecutive ones, lazily.
///
/// ```
/// use skipstone::sampling::generate::batches;
/// assert_eq!(batches([0, 1, 2, 5, 6, 9], 2).collect::<Vec<_>>(), [0..2, 2..3, 5..7, 9..10]);
/// assert_eq!(batches(0..1_000_000, 64).next(), Some(0..64));
/// ```
pub fn batches(wanted: impl IntoIterator<Item = u64>, batch: usize) -> impl Iterator<Item = Range<u64>> {
    let mut wanted = wanted.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = wanted.next()?;
        let mut run = first..first + 1;
        while run.end - run.start < batch as u64 && wanted.next_if_eq(&run.end).is_some() {
            run.end += 1;
        }
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::batches;

    #[test]
    fn batches_are_runs_of_neighbours() {
        let cut = |wanted: &[u64], batch| batches(wanted.iter().copied(), batch).collect::<Vec<_>>();
        assert_eq!(cut(&[0, 1, 2, 3, 4], 2), [0..2, 2..4, 4..5]);
        assert_eq!(cut(&[0, 1, 2, 5, 6, 9], 2), [0..2, 2..3, 5..7, 9..10]);
        assert_eq!(cut(&[7, 8, 9, 12], usize::MAX), [7..10, 12..13]);
        assert_eq!(cut(&[3, 4], 0), [3..4, 4..5]);
        assert_eq!(cut(&[], 8), []);
    }

    #[test]
    fn only_the_batch_at_hand_is_asked_for() {
        let mut asked = 0;
        let mut runs = batches((0..u64::MAX).inspect(|_| asked += 1), 8);
        assert_eq!(runs.by_ref().take(3).last(), Some(16..24));
        drop(runs);
        // Plus one index that shows where the next run begins.
        assert!(asked <= 25, "{asked}");
    }
}
