//! Peak throughput of the processor, the yardstick for benchmarks.

use std::time::Instant;

use crate::buffer::Buffer;
use crate::isa::{Isa, kernel};
use crate::team::Team;

/// Independent chains of multiply-adds: more than latency times issue rate, so the units stay busy.
const CHAINS: usize = 10;

kernel! {
    /// Runs `rounds` rounds of multiply-adds without touching memory. The result depends on all of them.
    unsafe fn multiply_adds<S>(s, rounds: usize, start: [f32; CHAINS], a: f32, b: f32) -> f32 {
        let mut acc = [s.zero(); CHAINS];
        for (acc, start) in acc.iter_mut().zip(start) {
            *acc = s.splat(start);
        }
        let (a, b) = (s.splat(a), s.splat(b));
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = s.fma(*acc, a, b);
            }
        }
        let mut lanes = [0.0f32; 16];
        let mut sum = acc[0];
        for acc in &acc[1..] {
            sum = s.add(sum, *acc);
        }
        // SAFETY: no vector has more than 16 lanes.
        unsafe { s.store(lanes.as_mut_ptr(), sum) };
        lanes.iter().sum()
    }
}

/// Peak floating-point operations per second: multiply-adds in registers on all threads of a team. Takes the best of
/// several rounds of a few milliseconds.
///
/// ```
/// use skipstone_kernels::{Isa, Team, peak};
/// // More than any processor reaches would mean that the compiler optimised the work away.
/// assert!((1e8..1e12).contains(&peak::flops_per_second(Isa::best(), Team::solo())));
/// ```
pub fn flops_per_second(isa: Isa, team: &Team) -> f64 {
    const ROUNDS: usize = 400_000;
    let threads = team.threads();
    let work = (ROUNDS * CHAINS * isa.lanes() * 2 * threads) as f64;
    let best = (0..8).map(|_| {
        let begun = Instant::now();
        team.run(threads, |_| {
            // Distinct starts that the compiler cannot see; otherwise it would compute the result at compile time.
            let start = std::hint::black_box(std::array::from_fn(|i| i as f32));
            let (rounds, a, b) = std::hint::black_box((ROUNDS, 0.999, 1e-3));
            // SAFETY: the kernel accesses only its own locals.
            std::hint::black_box(unsafe { multiply_adds(isa, rounds, start, a, b) });
        });
        work / begun.elapsed().as_secs_f64()
    });
    best.fold(0.0, f64::max)
}

kernel! {
    /// Adds up `len` elements; `len` is a multiple of eight vectors.
    unsafe fn read<S>(s, x: *const f32, len: usize) -> f32 {
        let mut acc = [s.zero(); 8];
        for at in (0..len).step_by(8 * S::LANES) {
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: guaranteed by the caller.
                *acc = s.add(*acc, unsafe { s.load(x.add(at + i * S::LANES)) });
            }
        }
        let mut sum = acc[0];
        for acc in &acc[1..] {
            sum = s.add(sum, *acc);
        }
        let mut lanes = [0.0f32; 16];
        // SAFETY: no vector has more than 16 lanes.
        unsafe { s.store(lanes.as_mut_ptr(), sum) };
        lanes.iter().sum()
    }
}

/// Bytes per second at which all threads of a team together re-read `bytes` bytes from whichever cache or memory holds
/// them. Takes the best of several passes. A network call on one image reads all weights once, so this rate bounds it.
///
/// ```
/// use skipstone_kernels::{Isa, Team, peak};
/// assert!((1e7..1e13).contains(&peak::bytes_per_second(Isa::best(), Team::solo(), 1 << 20)));
/// ```
pub fn bytes_per_second(isa: Isa, team: &Team, bytes: usize) -> f64 {
    /// Elements of one 4 KiB page.
    const PART: usize = 1024;
    let parts = (bytes / 4).div_ceil(PART).max(1);
    let mut buffer = Buffer::zeros(parts * PART);
    // Writing gives every page physical memory of its own.
    buffer.fill(1.0);
    let threads = team.threads();
    let best = (0..8).map(|_| {
        let begun = Instant::now();
        team.run(threads, |i| {
            let part = &buffer[parts * i / threads * PART..parts * (i + 1) / threads * PART];
            // SAFETY: each part is whole pages, a multiple of eight vectors.
            std::hint::black_box(unsafe { read(isa, part.as_ptr(), part.len()) });
        });
        (4 * parts * PART) as f64 / begun.elapsed().as_secs_f64()
    });
    best.fold(0.0, f64::max)
}
