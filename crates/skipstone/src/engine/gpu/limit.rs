//! How many images a device computes together.

use skipstone_gpu::{Element, Error as GpuError, Gpu};

use crate::error::Result;
use crate::unet::plan::MemoryPlan;

/// The most images whose arena a single buffer of the device holds.
pub(super) fn images(gpu: &Gpu, plan: &MemoryPlan, element: Element) -> usize {
    // Kernels number elements with 32 bits.
    let numbers = gpu.properties().largest_buffer / 4 * element.per_word() as u64;
    let largest = numbers.min(u64::from(u32::MAX)) as usize;
    (largest / plan.len().max(1)).max(1)
}

/// Images that keep a card busy, and a program that stands in for one.
const BUSY: usize = 256;
const BUSY_SOFTWARE: usize = 16;

/// The number of images that keeps the device busy and fits it.
pub(super) fn busy(gpu: &Gpu, plan: &MemoryPlan, element: Element) -> usize {
    images(gpu, plan, element).min(if gpu.properties().software { BUSY_SOFTWARE } else { BUSY })
}

/// After a pass over `n` images failed for want of memory: sets the number that is tried next.
///
/// # Errors
/// The pass failed for another reason, or had one image only.
pub(super) fn halve(gpu: &Gpu, error: GpuError, n: usize, fits: &mut Option<usize>) -> Result<()> {
    let memory = matches!(error, GpuError::OutOfMemory | GpuError::TooLarge(_));
    if !memory || n == 1 {
        return Err(error.into());
    }
    let half = n / 2;
    tracing::warn!("the device has too little memory for {n} images at once: continuing with {half}");
    *fits = Some(half);
    gpu.release_unused()?;
    Ok(())
}
