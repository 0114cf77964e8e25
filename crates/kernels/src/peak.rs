//! What the processor can do at best: the yardstick of benchmarks.

use std::time::Instant;

use crate::isa::{Isa, kernel};
use crate::team::Team;

/// Independent chains of multiply-adds: more than their latency times what starts in a cycle.
const CHAINS: usize = 10;

kernel! {
    /// `rounds` rounds of multiply-adds that touch no memory; the result depends on all of them.
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

/// Floating-point operations in a second that all threads of a team reach with multiply-adds in registers, the best of
/// some rounds of a few milliseconds.
///
/// ```
/// use skipstone_kernels::{Isa, Team, peak};
/// // More than any processor's: the compiler has seen through it.
/// assert!((1e8..1e12).contains(&peak::flops_per_second(Isa::best(), Team::solo())));
/// ```
pub fn flops_per_second(isa: Isa, team: &Team) -> f64 {
    const ROUNDS: usize = 400_000;
    let threads = team.threads();
    let work = (ROUNDS * CHAINS * isa.lanes() * 2 * threads) as f64;
    let best = (0..8).map(|_| {
        let begun = Instant::now();
        team.run(threads, |_| {
            // Chains that differ, by numbers the compiler does not know: else it does the sums itself.
            let start = std::hint::black_box(std::array::from_fn(|i| i as f32));
            let (rounds, a, b) = std::hint::black_box((ROUNDS, 0.999, 1e-3));
            // SAFETY: touches no memory but its own.
            std::hint::black_box(unsafe { multiply_adds(isa, rounds, start, a, b) });
        });
        work / begun.elapsed().as_secs_f64()
    });
    best.fold(0.0, f64::max)
}
