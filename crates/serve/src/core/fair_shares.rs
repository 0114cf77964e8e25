//! Shares the rows of the next network call among requests.

/// Shares at most `most` rows among requests, of which request i needs `missing[i]` more. Returns the rows of each.
///
/// Every request first gets an equal share, so that a request for one image does not wait for one for sixty-four. Rows
/// that small requests do not need go to the earliest requests that do. A call is never empty while rows are missing.
pub fn fair_shares(missing: &[usize], most: usize) -> Vec<usize> {
    let mut left = most.max(1);
    let share = (left / missing.len().max(1)).max(1);
    let mut shares: Vec<usize> = missing
        .iter()
        .map(|&rows| {
            let given = rows.min(share).min(left);
            left -= given;
            given
        })
        .collect();
    for (given, &rows) in shares.iter_mut().zip(missing) {
        let more = (rows - *given).min(left);
        *given += more;
        left -= more;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::fair_shares;

    #[test]
    fn a_single_request_gets_the_whole_call() {
        assert_eq!(fair_shares(&[64], 16), [16]);
        assert_eq!(fair_shares(&[5], 16), [5]);
    }

    #[test]
    fn a_small_request_is_not_held_up_by_a_large_one_before_it() {
        assert_eq!(fair_shares(&[64, 1], 16), [15, 1]);
        assert_eq!(fair_shares(&[64, 64, 1, 2], 16), [9, 4, 1, 2]);
    }

    #[test]
    fn more_requests_than_rows_are_served_from_the_front() {
        assert_eq!(fair_shares(&[3, 3, 3], 2), [1, 1, 0]);
        assert_eq!(fair_shares(&[1, 1], 0), [1, 0]);
        assert_eq!(fair_shares(&[], 4), [0; 0]);
    }

    #[test]
    fn no_row_is_shared_twice_and_no_place_stays_empty() {
        for most in 1..40 {
            for missing in [vec![1, 7, 30], vec![30, 7, 1], vec![12; 5], vec![2, 0, 40]] {
                let shares = fair_shares(&missing, most);
                assert!(shares.iter().zip(&missing).all(|(given, rows)| given <= rows));
                assert_eq!(shares.iter().sum::<usize>(), most.min(missing.iter().sum()), "{missing:?} {most}");
            }
        }
    }
}
