//! Assigns values to one arena. Values that are never needed at the same time share memory.

use std::ops::Range;

use super::graph::{Graph, ValueId};
use crate::error::{Error, Result};

/// Maximum activations per image, in elements: 16 GiB of f32.
const MAX_ELEMENTS: usize = 1 << 32;

/// Elements per cache line of a processor.
pub(crate) const CACHE_LINE: usize = 16;

/// The position of every root value, in elements per image.
#[derive(Clone, Debug)]
pub(crate) struct MemoryPlan {
    /// By value; empty for vectors and for values stored inside others.
    places: Vec<Range<usize>>,
    len: usize,
}

/// The steps of a walk during which a value is needed, both ends included.
#[derive(Clone, Copy, Debug)]
struct Life {
    value: usize,
    len: usize,
    from: usize,
    to: usize,
}

impl MemoryPlan {
    /// Plans the forward pass: values share memory as soon as nothing reads them any more. Values begin at multiples of
    /// `alignment` elements, here and below.
    pub fn inference(graph: &Graph, alignment: usize) -> Self {
        let mut lives = Lives::new(graph, alignment);
        lives.touch(graph.input, 0);
        for (i, op) in graph.ops.iter().enumerate() {
            lives.touch(op.output(), i + 1);
            op.inputs().for_each(|x| lives.touch(x, i + 1));
        }
        lives.touch(graph.output, graph.ops.len() + 1);
        lives.place()
    }

    /// Plans training: values stay for the backward pass. With `recompute`, values used within one block only are
    /// recomputed instead.
    pub fn training(graph: &Graph, recompute: bool, alignment: usize) -> Self {
        let mut lives = Lives::new(graph, alignment);
        let end = 2 * graph.ops.len() + 2;
        lives.touch(graph.input, 0);
        lives.touch(graph.input, end);
        for (i, op) in graph.ops.iter().enumerate() {
            lives.touch(op.output(), i + 1);
            op.inputs().for_each(|x| lives.touch(x, i + 1));
        }
        lives.touch(graph.output, end);
        let transient = if recompute { graph.transient.clone() } else { vec![false; graph.values.len()] };
        for life in lives.lives.iter_mut().flatten() {
            if transient[life.value] {
                // Needed within the block, both in the forward pass and when recomputed.
                let block = graph.blocks[life.from.clamp(1, graph.ops.len()) - 1];
                life.from = graph.blocks.iter().position(|b| *b == block).expect("used in this block") + 1;
                life.to = graph.blocks.iter().rposition(|b| *b == block).expect("used in this block") + 1;
            } else {
                life.to = end;
            }
        }
        let mut plan = lives.place_keeping(&transient, end);
        plan.len = plan.len.next_multiple_of(alignment);
        plan
    }

    /// Plans the gradients: each lives from the first contribution in the backward pass to the operation that wrote the
    /// value.
    pub fn gradients(graph: &Graph, alignment: usize) -> Self {
        let mut lives = Lives::new(graph, alignment);
        let last = graph.ops.len();
        lives.touch(graph.output, 0);
        for (i, op) in graph.ops.iter().enumerate() {
            lives.touch(op.output(), last - i);
            op.inputs().for_each(|x| lives.touch(x, last - i));
        }
        lives.touch(graph.input, last + 1);
        lives.place()
    }

    /// Refuses a network whose buffers would not fit any machine; a config file may ask for any image size.
    pub fn check(&self) -> Result<()> {
        if self.len > MAX_ELEMENTS {
            return Err(Error::unsupported(format!(
                "sample_size: one image needs {} GiB of activations, more than the limit of {} GiB",
                self.len >> 28,
                MAX_ELEMENTS >> 28
            )));
        }
        Ok(())
    }

    /// Length of the whole arena in elements per image.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The range of a root value in an arena for `n` images.
    pub fn range(&self, root: ValueId, n: usize) -> Range<usize> {
        let place = &self.places[root.0];
        n * place.start..n * place.end
    }
}

struct Lives<'a> {
    graph: &'a Graph,
    /// Elements to whose multiples values begin.
    alignment: usize,
    lives: Vec<Option<Life>>,
}

impl<'a> Lives<'a> {
    fn new(graph: &'a Graph, alignment: usize) -> Self {
        Self { graph, alignment, lives: vec![None; graph.values.len()] }
    }

    fn touch(&mut self, value: ValueId, at: usize) {
        let (root, _) = self.graph.root(value);
        let len = self.graph.value(root).len().next_multiple_of(self.alignment);
        let life = self.lives[root.0].get_or_insert(Life { value: root.0, len, from: at, to: at });
        life.from = life.from.min(at);
        life.to = life.to.max(at);
    }

    /// First fit, the longest-lived and largest values first.
    fn place(self) -> MemoryPlan {
        let none = vec![false; self.graph.values.len()];
        self.place_keeping(&none, usize::MAX)
    }

    fn place_keeping(self, transient: &[bool], end: usize) -> MemoryPlan {
        let mut lives: Vec<Life> = self.lives.into_iter().flatten().collect();
        // Values kept to the end come first, without gaps.
        lives.sort_by_key(|life| (life.to != end || transient[life.value], std::cmp::Reverse(life.len), life.from));
        let mut places = vec![0..0; self.graph.values.len()];
        let mut placed: Vec<(Life, usize)> = Vec::new();
        let mut len = 0;
        for life in lives {
            let mut taken: Vec<(usize, usize)> = placed
                .iter()
                .filter(|(other, _)| other.from <= life.to && life.from <= other.to)
                .map(|(other, at)| (*at, at + other.len))
                .collect();
            taken.sort_unstable();
            let mut at = 0;
            for (begin, end) in taken {
                if begin >= at + life.len {
                    break;
                }
                at = at.max(end);
            }
            placed.push((life, at));
            places[life.value] = at..at + self.graph.values[life.value].len();
            len = len.max(at + life.len);
        }
        MemoryPlan { places, len }
    }
}
