//! Drawing the images of a cell that are not there yet.

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use ndarray::{Array4, Axis, concatenate};

use super::samples::{Effort, Samples};
use skipstone::error::Result;
use skipstone::io::image::to_byte;
use skipstone::sampling::generate::Generator;
use skipstone::sampling::sampler::Progress;

/// Images of one file.
const MOST_IMAGES: usize = 512;
/// How much work a killed process may lose, beside the batch it was at.
const MOST_TIME: Duration = Duration::from_secs(30);

/// What an observer of [`draw`] hears after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Images of the batch that is being drawn.
    pub batch: usize,
    /// Network calls for each that this step made, those of guidance included.
    pub evaluations: usize,
}

/// Draws what `samples` lacks of `wanted`, at most `batch` images at a time, and keeps it.
///
/// Whatever is finished is kept, also where `observer` stops the work or an error ends it. Which images are drawn, and what they look like, does not depend on `batch` or on what was there.
///
/// # Errors
/// As [`Generator::generate`]; images that cannot be kept.
pub fn draw(
    generator: &Generator,
    samples: &mut Samples,
    wanted: Range<u64>,
    batch: usize,
    observer: &mut dyn FnMut(Drawn) -> ControlFlow<()>,
) -> Result<()> {
    let machine = format!("{} threads ({})", rayon::current_num_threads(), skipstone::engine::cpu::Isa::best().name());
    for gap in samples.missing(wanted) {
        let mut kept = Pending::new(&machine, gap.start);
        let mut see = |images: &Range<u64>, progress: &Progress<'_>| {
            let evaluations =
                generator.evaluations_after(progress.step) - generator.evaluations_after(progress.step - 1);
            observer(Drawn { batch: (images.end - images.start) as usize, evaluations })
        };
        let ended = generator.generate_all(gap, batch, &mut see, |_, x0| {
            kept.push(x0.mapv(to_byte));
            if kept.is_due() { kept.flush(samples) } else { Ok(()) }
        });
        kept.flush(samples)?;
        ended?;
    }
    Ok(())
}

/// Neighbouring images that are drawn and not yet on disk.
struct Pending<'a> {
    machine: &'a str,
    first: u64,
    images: Vec<Array4<u8>>,
    begun: Instant,
    /// From `begun` to the end of the last batch: one that was broken off is nobody's cost.
    spent: Duration,
}

impl<'a> Pending<'a> {
    fn new(machine: &'a str, first: u64) -> Self {
        Self { machine, first, images: Vec::new(), begun: Instant::now(), spent: Duration::ZERO }
    }

    fn push(&mut self, images: Array4<u8>) {
        self.images.push(images);
        self.spent = self.begun.elapsed();
    }

    fn is_due(&self) -> bool {
        let n: usize = self.images.iter().map(|images| images.dim().0).sum();
        n >= MOST_IMAGES || self.spent >= MOST_TIME
    }

    fn flush(&mut self, samples: &mut Samples) -> Result<()> {
        if !self.images.is_empty() {
            let parts: Vec<_> = self.images.iter().map(|images| images.view()).collect();
            let images = concatenate(Axis(0), &parts).expect("images of one network have one shape");
            let effort = Effort { seconds: self.spent.as_secs_f64(), machine: self.machine.to_owned() };
            samples.write(self.first, images.view(), effort)?;
            *self = Self::new(self.machine, self.first + images.dim().0 as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
