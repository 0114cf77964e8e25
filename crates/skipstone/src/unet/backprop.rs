//! Gradients of a network over a batch, on any number of threads with the same bytes.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use ndarray::Array4;
use skipstone_kernels::{Threads, elementwise};

use super::config::Config;
use super::execute::{Inputs, Plan, Workspace};
use super::graph::Graph;
use super::network::{check, time_indices};
use crate::error::{Error, Kind, Result};
use crate::schedule::Time;

/// One batch to take the gradient over.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The noisy images, `[n, c, h, w]`.
    pub x_t: &'a Array4<f32>,
    /// The time of each.
    pub times: &'a [Time],
    /// The class of each, for a conditional network.
    pub classes: Option<&'a [usize]>,
    /// A key for each image's dropout masks; `None` switches dropout off.
    pub dropout: Option<&'a [u64]>,
}

/// The backward pass of a network.
///
/// A batch is cut into shards of a fixed number of images. Each shard runs forward and backward on one thread; the
/// shards' gradients are added in order. The sum therefore does not depend on the number of threads.
#[derive(Debug)]
pub struct Backprop {
    config: Config,
    graph: Graph,
    plan: Plan,
    shard: usize,
    workers: Vec<Worker>,
    /// Threads of our own, which keep their scratch memory from step to step.
    pool: rayon::ThreadPool,
}

#[derive(Debug, Default)]
struct Worker {
    workspace: Workspace,
    gradient: Vec<f32>,
    dy: Vec<f32>,
}

/// Whose turn it is to add its gradient.
struct Turn<'a> {
    shard: usize,
    /// A worker panicked: its turn will never be taken, and nobody should wait for it.
    broken: bool,
    gradient: &'a mut [f32],
    input_gradient: Option<&'a mut [f32]>,
}

/// Marks the turn as broken when its thread unwinds.
struct BreakOnPanic<'a, 'b>(&'a Mutex<Turn<'b>>, &'a Condvar);

impl Drop for BreakOnPanic<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().unwrap_or_else(|poison| poison.into_inner()).broken = true;
            self.1.notify_all();
        }
    }
}

impl Backprop {
    /// Prepares the gradient of networks of this architecture on `threads` threads, `shard` images at a time.
    ///
    /// # Errors
    /// The config is invalid, or `threads` or `shard` is 0.
    pub fn new(config: Config, threads: usize, shard: usize) -> Result<Self> {
        if threads == 0 || shard == 0 {
            return Err(Error::argument(format!("{threads} threads and shards of {shard} images: neither may be 0")));
        }
        let graph = Graph::new(&config)?;
        let plan = Plan::training(&graph);
        plan.check()?;
        let workers = (0..threads).map(|_| Worker::default()).collect();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::new(Kind::Io, format!("{threads} threads: {e}")))?;
        Ok(Self { config, graph, plan, shard, workers, pool })
    }

    /// Bytes that activations and gradients take for a batch of `n` images.
    pub fn bytes(&self, n: usize) -> usize {
        let workers = self.workers.len().min(n.div_ceil(self.shard));
        workers * (8 * self.plan.len() * self.shard.min(n) + 4 * self.graph.layout.len())
    }

    /// Runs the batch and adds to `gradient` (as long as the layout). `cotangent(images, y, dy)` is given each shard's
    /// output and writes the derivative of the loss by it; it is called once for every shard, in any order.
    ///
    /// # Errors
    /// As [`UNet::forward`](super::UNet::forward).
    ///
    /// # Panics
    /// `parameters` or `gradient` has another length than the layout.
    pub fn add_gradient(
        &mut self,
        parameters: &[f32],
        batch: Batch<'_>,
        cotangent: impl Fn(Range<usize>, &[f32], &mut [f32]) + Sync,
        gradient: &mut [f32],
        input_gradient: Option<&mut Array4<f32>>,
    ) -> Result<()> {
        let n = check(&self.config, batch.x_t, batch.times.len(), batch.classes)?;
        let times = time_indices(&self.config, batch.times)?;
        assert_eq!((parameters.len(), gradient.len()), (self.graph.layout.len(), self.graph.layout.len()));
        assert!(batch.dropout.is_none_or(|keys| keys.len() == n), "a dropout key for each image");
        let x = batch.x_t.as_standard_layout();
        let x = x.as_slice().expect("standard layout");
        let len = x.len().checked_div(n).unwrap_or(0);
        let (graph, plan, config, shard) = (&self.graph, &self.plan, &self.config, self.shard);
        let shards = n.div_ceil(shard);
        let next = AtomicUsize::new(0);
        let input_gradient = input_gradient.map(|g| g.as_slice_mut().expect("standard layout"));
        let want_input = input_gradient.is_some();
        let turn = Mutex::new(Turn { shard: 0, broken: false, gradient, input_gradient });
        let turned = Condvar::new();
        let work = |worker: &mut Worker| {
            let _guard = BreakOnPanic(&turn, &turned);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= shards {
                    return;
                }
                let range = index * shard..((index + 1) * shard).min(n);
                let inputs = Inputs {
                    x: &x[range.start * len..range.end * len],
                    times: &times[range.clone()],
                    classes: batch.classes.map(|c| &c[range.clone()]),
                    dropout: batch.dropout.map(|k| &k[range.clone()]),
                };
                let y = graph.forward(config, plan, &mut worker.workspace, parameters, inputs, Threads::One);
                worker.dy.clear();
                worker.dy.resize(y.len(), 0.0);
                cotangent(range.clone(), y, &mut worker.dy);
                worker.gradient.clear();
                worker.gradient.resize(parameters.len(), 0.0);
                let workspace = &mut worker.workspace;
                let dx =
                    graph.backward(plan, workspace, parameters, inputs, &worker.dy, &mut worker.gradient, want_input);
                let guard = turn.lock().unwrap_or_else(|poison| poison.into_inner());
                let mut turn = turned
                    .wait_while(guard, |turn| turn.shard != index && !turn.broken)
                    .unwrap_or_else(|poison| poison.into_inner());
                if turn.broken {
                    return; // the other thread's panic is the one to report
                }
                elementwise::axpy(1.0, &worker.gradient, turn.gradient);
                if let Some(g) = &mut turn.input_gradient {
                    g[range.start * len..range.end * len].copy_from_slice(dx);
                }
                turn.shard += 1;
                turned.notify_all();
            }
        };
        // A worker that starts late finds fewer shards left; none ever waits for one that has not started, because
        // shards are handed out in order to workers that are running.
        let threads = self.workers.len().min(shards);
        let work = &work;
        self.pool.scope(|scope| {
            for worker in &mut self.workers[..threads] {
                scope.spawn(move |_| work(worker));
            }
        });
        Ok(())
    }
}
