//! How partial sums reach the owners of the parameters, and values come back.

use std::ops::Range;
use std::sync::mpsc::Receiver;

use super::blocks::{Block, additions, blocks, share};
use super::partition::Partition;
use crate::engine::cpu::Backprop;
use crate::engine::ranks::Ranks;
use crate::error::{Error, Kind, Result};

/// What every rank knows about all the others.
#[derive(Debug)]
pub(super) struct Plan {
    partition: Partition,
    /// Shards of a step, over all ranks.
    count: usize,
    rank: usize,
    /// How many blocks each rank ends with.
    blocks: Vec<usize>,
    /// The additions of all ranks' blocks.
    additions: Vec<(usize, usize)>,
}

impl Plan {
    pub fn new(backprop: &Backprop, shards: usize, ranks: &dyn Ranks) -> Self {
        let size = ranks.size();
        let all: Vec<Vec<Block>> = (0..size).map(|rank| blocks(share(shards, rank, size))).collect();
        Self {
            partition: Partition::new(backprop, size),
            count: shards,
            rank: ranks.rank(),
            blocks: all.iter().map(Vec::len).collect(),
            additions: additions(&all.concat()),
        }
    }

    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Shards of a step, over all ranks.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The shards of this rank.
    pub fn shards(&self) -> Range<usize> {
        share(self.count, self.rank, self.blocks.len())
    }

    /// The chunks that this rank owns.
    pub fn owned(&self) -> impl Iterator<Item = &Range<usize>> + Clone {
        self.partition.all_owned(self.rank)
    }

    pub fn chunks(&self) -> &[Range<usize>] {
        self.partition.chunks()
    }

    pub fn is_complete(&self, chunk: usize, operation: Option<usize>) -> bool {
        self.partition.is_complete(chunk, operation)
    }
}

/// The exchange of one step's partial sums.
pub(super) struct Exchange<'a> {
    pub plan: &'a Plan,
    pub ranks: &'a dyn Ranks,
    /// The partial sums of this rank without its last shard.
    pub stack: &'a [(Block, Vec<f32>)],
    /// Receives the sum of the owned parameters.
    pub sum: &'a mut [f32],
}

impl Exchange<'_> {
    /// Exchanges all chunks. `last` yields those of the gradient of this rank's last shard, in order; `None` if it has no
    /// shard.
    pub fn run(mut self, last: Option<Receiver<Vec<f32>>>) -> Result<()> {
        let Self { plan, ranks, stack, .. } = self;
        let (partition, rank, size) = (&plan.partition, plan.rank, plan.blocks.len());
        // The last shard completes the blocks at the top of the stack.
        let mut top = Block::shard(plan.shards().end.saturating_sub(1));
        let mut separate = stack.len();
        while last.is_some() && separate > 0 && stack[separate - 1].0.is_left_of(top) {
            separate -= 1;
            top = stack[separate].0.doubled();
        }
        let (mut send, mut receive) = (Vec::new(), Vec::new());
        let mut filled = 0;
        for round in partition.rounds() {
            send.clear();
            let mut pieces: Vec<Vec<f32>> = Vec::new();
            if let Some(last) = &last {
                for range in &partition.chunks()[round.clone()] {
                    let mut piece = last
                        .recv()
                        .map_err(|_| Error::new(Kind::Stopped, "the gradient of the last shard was not completed"))?;
                    for (_, left) in stack[separate..].iter().rev() {
                        piece.iter_mut().zip(&left[range.clone()]).for_each(|(sum, left)| *sum += left);
                    }
                    pieces.push(piece);
                }
                for owner in 0..size {
                    let first = (owner + size - round.start % size) % size;
                    for (range, piece) in
                        partition.chunks()[round.clone()].iter().zip(&pieces).skip(first).step_by(size)
                    {
                        stack[..separate].iter().for_each(|(_, values)| send.extend_from_slice(&values[range.clone()]));
                        send.extend_from_slice(piece);
                    }
                }
            }
            let lengths = partition.lengths(&round);
            let sent: Vec<usize> = lengths.iter().map(|length| 4 * plan.blocks[rank] * length).collect();
            let received: Vec<usize> = plan.blocks.iter().map(|blocks| 4 * blocks * lengths[rank]).collect();
            receive.resize(received.iter().sum::<usize>() / 4, 0.0f32);
            ranks.exchange(bytemuck::cast_slice(&send), &sent, bytemuck::cast_slice_mut(&mut receive), &received)?;
            self.add(&round, &mut receive, &mut filled);
        }
        Ok(())
    }

    /// Adds the blocks of all ranks for the owned chunks of a round.
    fn add(&mut self, round: &Range<usize>, received: &mut [f32], filled: &mut usize) {
        let plan = self.plan;
        let owned = plan.partition.owned(plan.rank, round.clone());
        let whole: usize = owned.clone().map(ExactSizeIterator::len).sum();
        let mut within = 0;
        for range in owned {
            let len = range.len();
            // Where each block of this chunk lies: rank after rank, chunk after chunk, block after block.
            let mut places = Vec::new();
            let mut begin = 0;
            for &blocks in &plan.blocks {
                places.extend((0..blocks).map(|block| begin + within * blocks + block * len));
                begin += whole * blocks;
            }
            for &(left, right) in &plan.additions {
                let (head, tail) = received.split_at_mut(places[right]);
                let left = &mut head[places[left]..places[left] + len];
                left.iter_mut().zip(&tail[..len]).for_each(|(sum, more)| *sum += more);
            }
            self.sum[*filled..*filled + len].copy_from_slice(&received[places[0]..places[0] + len]);
            *filled += len;
            within += len;
        }
    }
}

/// Completes `all` with the chunks that other ranks own. This rank's are in `mine`, chunk after chunk, or already in `all`.
pub(super) fn gather_chunks(
    ranks: &dyn Ranks,
    partition: &Partition,
    mine: Option<&[f32]>,
    all: &mut [f32],
) -> Result<()> {
    let (mut send, mut receive) = (Vec::new(), Vec::new());
    let mut mine = mine;
    for round in partition.rounds() {
        send.clear();
        for range in partition.owned(ranks.rank(), round.clone()) {
            match &mut mine {
                Some(rest) => send.extend_from_slice(rest.split_off(..range.len()).expect("the owned chunks")),
                None => send.extend_from_slice(&all[range.clone()]),
            }
        }
        let lengths: Vec<usize> = partition.lengths(&round).iter().map(|length| 4 * length).collect();
        receive.resize(lengths.iter().sum::<usize>() / 4, 0.0f32);
        ranks.gather(bytemuck::cast_slice(&send), bytemuck::cast_slice_mut(&mut receive), &lengths)?;
        let mut rest = &receive[..];
        for range in (0..ranks.size()).flat_map(|rank| partition.owned(rank, round.clone())) {
            all[range.clone()].copy_from_slice(rest.split_off(..range.len()).expect("all chunks of the round"));
        }
    }
    Ok(())
}
