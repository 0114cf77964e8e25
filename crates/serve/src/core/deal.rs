//! Which rows of which requests go into the next network call.

/// Deals at most `most` rows among requests that still have `missing` rows to be done: how many each gets.
///
/// Everybody gets an equal share first, so that a request of one image is not held up by one of sixty-four; what a
/// small request leaves goes to the earliest that can use it. A call is never empty where something is missing.
pub fn deal(missing: &[usize], most: usize) -> Vec<usize> {
    let mut left = most.max(1);
    let share = (left / missing.len().max(1)).max(1);
    let mut dealt: Vec<usize> = missing
        .iter()
        .map(|&rows| {
            let given = rows.min(share).min(left);
            left -= given;
            given
        })
        .collect();
    for (given, &rows) in dealt.iter_mut().zip(missing) {
        let more = (rows - *given).min(left);
        *given += more;
        left -= more;
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::deal;

    #[test]
    fn a_single_request_gets_the_whole_call() {
        assert_eq!(deal(&[64], 16), [16]);
        assert_eq!(deal(&[5], 16), [5]);
    }

    #[test]
    fn a_small_request_is_not_held_up_by_a_large_one_before_it() {
        assert_eq!(deal(&[64, 1], 16), [15, 1]);
        assert_eq!(deal(&[64, 64, 1, 2], 16), [9, 4, 1, 2]);
    }

    #[test]
    fn more_requests_than_rows_are_served_from_the_front() {
        assert_eq!(deal(&[3, 3, 3], 2), [1, 1, 0]);
        assert_eq!(deal(&[1, 1], 0), [1, 0]);
        assert_eq!(deal(&[], 4), [0; 0]);
    }

    #[test]
    fn no_row_is_dealt_twice_and_no_place_stays_empty() {
        for most in 1..40 {
            for missing in [vec![1, 7, 30], vec![30, 7, 1], vec![12; 5], vec![2, 0, 40]] {
                let dealt = deal(&missing, most);
                assert!(dealt.iter().zip(&missing).all(|(given, rows)| given <= rows));
                assert_eq!(dealt.iter().sum::<usize>(), most.min(missing.iter().sum()), "{missing:?} {most}");
            }
        }
    }
}
