//! Which rank owns which parameters, and in which order they travel.

use std::ops::Range;

use crate::engine::cpu::Backprop;

/// The norm of the gradient adds the squares of so many parameters at a time, whoever owns them.
pub(super) const NORM: usize = 4096;
/// Most parameters of a chunk, a multiple of [`NORM`].
const LARGEST: usize = 16 * NORM;
/// Chunks of each owner that travel together: enough bytes to keep a network busy.
const TOGETHER: usize = 4;

/// The parameters, cut into chunks in the order in which the backward pass completes their gradients.
///
/// Chunk i belongs to rank i mod P: at any time during the backward pass, all owners receive.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    chunks: Vec<Range<usize>>,
    /// For each chunk, the operation whose backward step completes it; `None` if only the end does.
    completed_by: Vec<Option<usize>>,
    size: usize,
}

impl Partition {
    /// Cuts the parameters of a network among `size` ranks.
    pub fn new(backprop: &Backprop, size: usize) -> Self {
        let layout = backprop.layout();
        let n = layout.len();
        // A single rank owns all in one piece.
        let chunk = if size == 1 { n.max(1) } else { n.div_ceil(8 * size).next_multiple_of(NORM).clamp(NORM, LARGEST) };
        let completed_by = backprop.completed_by();
        let mut chunks: Vec<(Option<usize>, Range<usize>)> =
            (0..n).step_by(chunk).map(|begin| (None, begin..(begin + chunk).min(n))).collect();
        let mut first = 0;
        for (by, range) in &mut chunks {
            while layout.specs()[first].range().end <= range.start {
                first += 1;
            }
            let over = layout.specs()[first..].iter().zip(&completed_by[first..]);
            let over = over.take_while(|(spec, _)| spec.offset < range.end);
            *by = over.map(|(_, by)| *by).reduce(|a, b| a.zip(b).map(|(a, b)| a.min(b))).flatten();
        }
        // The backward pass goes from the last operation to the first.
        chunks.sort_by_key(|(by, range)| (std::cmp::Reverse(*by), range.start));
        let (completed_by, chunks) = chunks.into_iter().unzip();
        Self { chunks, completed_by, size }
    }

    /// The parameters of each chunk, in order.
    pub fn chunks(&self) -> &[Range<usize>] {
        &self.chunks
    }

    /// Whether chunk `index` is complete after the backward step of `operation`, or at the end.
    pub fn is_complete(&self, index: usize, operation: Option<usize>) -> bool {
        match (self.completed_by[index], operation) {
            (_, None) => true,
            (Some(by), Some(operation)) => by >= operation,
            (None, Some(_)) => false,
        }
    }

    /// Groups of chunks that travel together, in order.
    pub fn rounds(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (n, step) = (self.chunks.len(), TOGETHER * self.size);
        (0..n).step_by(step).map(move |begin| begin..(begin + step).min(n))
    }

    /// The chunks of a rank within `round`.
    pub fn owned(&self, rank: usize, round: Range<usize>) -> impl Iterator<Item = &Range<usize>> + Clone {
        let skip = (rank + self.size - round.start % self.size) % self.size;
        self.chunks[round].iter().skip(skip).step_by(self.size)
    }

    /// All chunks of a rank.
    pub fn all_owned(&self, rank: usize) -> impl Iterator<Item = &Range<usize>> + Clone {
        self.owned(rank, 0..self.chunks.len())
    }

    /// The number of parameters that each rank owns within `round`.
    pub fn lengths(&self, round: &Range<usize>) -> Vec<usize> {
        (0..self.size).map(|rank| self.owned(rank, round.clone()).map(ExactSizeIterator::len).sum()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unet::Config;

    #[test]
    fn every_parameter_has_one_owner_and_travels_once() {
        let backprop = Backprop::new(Config::default(), 1, 1).unwrap();
        let n = backprop.layout().len();
        for size in [1, 2, 3, 64] {
            let partition = Partition::new(&backprop, size);
            let mut seen = vec![0u8; n];
            for round in partition.rounds() {
                for rank in 0..size {
                    for range in partition.owned(rank, round.clone()) {
                        assert!(range.start.is_multiple_of(NORM));
                        seen[range.clone()].iter_mut().for_each(|seen| *seen += 1);
                    }
                }
            }
            assert!(seen.iter().all(|&seen| seen == 1), "{size} ranks");
            let lengths = partition.lengths(&(0..partition.chunks().len()));
            let (least, most) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
            assert!(most - least <= LARGEST, "{size} ranks own {least} to {most}");
        }
    }
}
