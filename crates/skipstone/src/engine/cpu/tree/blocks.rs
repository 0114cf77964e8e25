//! The fixed tree by which the shards' gradients are summed.
//!
//! Shards are numbered over the whole step. A block is an aligned power of two of them: its first shard is a multiple of
//! its length. Two halves of an aligned block are added as soon as both are there, like the carry of a binary counter; at
//! the end the blocks that remain are added from right to left. The sum's bits then depend on the number of shards alone,
//! whoever holds which block.

use std::ops::Range;

/// An aligned block of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub first: usize,
    pub shards: usize,
}

impl Block {
    /// The block of one shard.
    pub fn shard(first: usize) -> Self {
        Self { first, shards: 1 }
    }

    /// Whether this block and the next are the halves of an aligned block.
    pub fn is_left_of(self, next: Self) -> bool {
        self.shards == next.shards
            && self.first + self.shards == next.first
            && self.first.is_multiple_of(2 * self.shards)
    }

    /// This block with its right half.
    pub fn doubled(self) -> Self {
        Self { shards: 2 * self.shards, ..self }
    }
}

/// The blocks that remain of a range of shards when all halves are added.
pub(super) fn blocks(shards: Range<usize>) -> Vec<Block> {
    let mut stack: Vec<Block> = Vec::new();
    for first in shards {
        let mut top = Block::shard(first);
        while let Some(left) = stack.pop_if(|left| left.is_left_of(top)) {
            top = left.doubled();
        }
        stack.push(top);
    }
    stack
}

/// The most blocks that exist at a time while the shards of a range are added.
pub(super) fn most_blocks(shards: Range<usize>) -> usize {
    shards.clone().map(|last| blocks(shards.start..last).len() + 1).max().unwrap_or(0)
}

/// The additions that make one sum of these blocks, in order: (left, right) adds the values of block `right` to those of
/// block `left`.
pub(super) fn additions(blocks: &[Block]) -> Vec<(usize, usize)> {
    let mut additions = Vec::new();
    let mut stack: Vec<(usize, Block)> = Vec::new();
    for (index, &block) in blocks.iter().enumerate() {
        let mut top = (index, block);
        while let Some((left, block)) = stack.pop_if(|(_, left)| left.is_left_of(top.1)) {
            additions.push((left, top.0));
            top = (left, block.doubled());
        }
        stack.push(top);
    }
    additions.extend(stack.windows(2).rev().map(|pair| (pair[0].0, pair[1].0)));
    additions
}

/// The contiguous part of `shards` shards that rank `rank` of `size` computes.
pub(in crate::engine) fn share(shards: usize, rank: usize, size: usize) -> Range<usize> {
    shards * rank / size..shards * (rank + 1) / size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: the largest power of two below `len` on the left, the rest on the right.
    fn tree(first: usize, len: usize) -> String {
        if len == 1 {
            return first.to_string();
        }
        let half = len.next_power_of_two() / 2;
        format!("({}+{})", tree(first, half), tree(first + half, len - half))
    }

    fn sum(blocks: &[Block], mut values: Vec<String>) -> String {
        for (left, right) in additions(blocks) {
            values[left] = format!("({}+{})", values[left], values[right]);
        }
        values[0].clone()
    }

    #[test]
    fn any_number_of_ranks_adds_the_same_pairs() {
        for shards in 1..40 {
            let expected = tree(0, shards);
            for size in 1..=9 {
                let mut parts = Vec::new();
                for rank in 0..size {
                    let mut mine: Vec<(Block, String)> = Vec::new();
                    for shard in share(shards, rank, size) {
                        let mut top = (Block::shard(shard), shard.to_string());
                        while let Some(left) = mine.pop_if(|left| left.0.is_left_of(top.0)) {
                            top = (left.0.doubled(), format!("({}+{})", left.1, top.1));
                        }
                        mine.push(top);
                    }
                    let found: Vec<Block> = mine.iter().map(|part| part.0).collect();
                    assert_eq!(found, blocks(share(shards, rank, size)));
                    parts.extend(mine);
                }
                let (blocks, values): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
                assert_eq!(sum(&blocks, values), expected, "{shards} shards on {size} ranks");
            }
        }
    }

    #[test]
    fn a_sum_of_many_shards_needs_few_buffers() {
        assert_eq!([1, 2, 3, 4, 8, 64, 100].map(|n| most_blocks(0..n)), [1, 2, 2, 3, 4, 7, 7]);
        assert_eq!(most_blocks(5..5), 0);
    }
}
