//! `--batch`: how many images go through the network at a time.

use std::ops::Range;

use clap::Args;
use skipstone::sampling::generate::Generator;

/// How many images at a time.
#[derive(Clone, Copy, Debug)]
enum Batch {
    /// Enough to keep the threads busy.
    Auto,
    /// This number.
    Images(usize),
}

/// The `--batch` argument.
#[derive(Args, Clone, Copy, Debug)]
pub struct BatchArguments {
    /// Images per network call: auto or a number; results do not depend on it
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = batch)]
    batch: Batch,
}

impl BatchArguments {
    /// The batch size for `n` images.
    pub fn of(self, generator: &Generator, n: usize, threads: usize) -> usize {
        match self.batch {
            Batch::Auto => generator.batch(n, threads),
            Batch::Images(batch) => batch.min(n),
        }
    }
}

fn batch(text: &str) -> Result<Batch, String> {
    match text.parse() {
        _ if text == "auto" => Ok(Batch::Auto),
        Ok(n) if n > 0 => Ok(Batch::Images(n)),
        _ => Err("expected auto or a number of at least 1".to_owned()),
    }
}

/// Splits `n` images into batches of at most `batch`.
pub fn batches(n: usize, batch: usize) -> Vec<Range<usize>> {
    (0..n).step_by(batch.max(1)).map(|from| from..(from + batch).min(n)).collect()
}

/// Splits `wanted` into runs of consecutive indices, each of at most `batch`.
pub fn runs(wanted: &[u64], batch: usize) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &i in wanted {
        match runs.last_mut() {
            Some(last) if last.end == i && i - last.start < batch as u64 => last.end += 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::{batches, runs};

    #[test]
    fn batches_are_runs_of_neighbours() {
        assert_eq!(batches(5, 2), [0..2, 2..4, 4..5]);
        assert_eq!(runs(&[0, 1, 2, 5, 6, 9], 2), [0..2, 2..3, 5..7, 9..10]);
        assert_eq!(runs(&[7, 8, 9, 12], 8), [7..10, 12..13]);
        assert_eq!(runs(&[], 8), []);
    }
}
