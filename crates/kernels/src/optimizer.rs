//! Single passes over flat parameter buffers: Adam, the moving average, norms.

use crate::elementwise::parts;
use crate::isa::{Isa, kernel};
use crate::math::total;
use crate::shared::Shared;
use crate::team::Team;

/// Parameters of an Adam step (Kingma & Ba, arXiv 1412.6980; decoupled decay: Loshchilov & Hutter, 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decay rate of the first moment, β₁.
    pub beta1: f64,
    /// Decay rate of the second moment, β₂.
    pub beta2: f64,
    /// ε, added to the square root of the second moment.
    pub eps: f64,
    /// Weight decay: applied to the weights if `decoupled` (AdamW), otherwise added to the gradient.
    pub weight_decay: f64,
    /// Whether this is AdamW rather than Adam.
    pub decoupled: bool,
}

impl Adam {
    /// Applies step `step` (counted from 1) to parameters `p` with gradient `g` and moments `m` and `v`.
    ///
    /// # Panics
    /// The slices differ in length.
    #[allow(clippy::too_many_arguments)] // what a step reads and writes
    pub fn step(&self, isa: Isa, team: &Team, step: u64, g: &[f32], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        assert_eq!((g.len(), m.len(), v.len()), (p.len(), p.len(), p.len()));
        let factors = self.factors(step);
        let (p, m, v) = (Shared::new(p), Shared::new(m), Shared::new(v));
        parts(team, g.len(), |begin, len| {
            // SAFETY: only this task accesses its part.
            unsafe {
                let (p, m, v) = (p.part(begin, len), m.part(begin, len), v.part(begin, len));
                adam(isa, factors, &g[begin..begin + len], p, m, v);
            }
        });
    }

    /// The factors of step `step` (counted from 1).
    pub fn factors(&self, step: u64) -> Factors {
        let exponent = step.min(i32::MAX as u64) as i32;
        let correction1 = 1.0 - self.beta1.powi(exponent);
        let correction2 = 1.0 - self.beta2.powi(exponent);
        let (shrink, decay) = if self.decoupled {
            ((1.0 - self.lr * self.weight_decay) as f32, 0.0)
        } else {
            (1.0, self.weight_decay as f32)
        };
        Factors {
            b1: self.beta1 as f32,
            b2: self.beta2 as f32,
            c1: (1.0 - self.beta1) as f32,
            c2: (1.0 - self.beta2) as f32,
            rate: (self.lr / correction1) as f32,
            root: (1.0 / correction2.sqrt()) as f32,
            eps: self.eps as f32,
            shrink,
            decay,
        }
    }
}

/// The factors of an Adam step with gradient g: with g' = g + `decay`·p, m ← `b1`·m + `c1`·g', v ← `b2`·v + `c2`·g'² and
/// p ← `shrink`·p − `rate`·m/(`root`·√v + `eps`).
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // the formula above
pub struct Factors {
    pub b1: f32,
    pub b2: f32,
    pub c1: f32,
    pub c2: f32,
    pub rate: f32,
    pub root: f32,
    pub eps: f32,
    pub shrink: f32,
    pub decay: f32,
}

kernel! {
    unsafe fn adam<S>(_s, f: Factors, g: &[f32], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
            let g = g + f.decay * *p;
            *m = f.b1 * *m + f.c1 * g;
            *v = f.b2 * *v + f.c2 * g * g;
            *p = *p * f.shrink - f.rate * *m / (v.sqrt() * f.root + f.eps);
        }
    }
}

/// ema = decay·ema + (1 − decay)·p.
///
/// # Panics
/// The slices differ in length.
pub fn moving_average(isa: Isa, team: &Team, decay: f64, p: &[f32], ema: &mut [f32]) {
    assert_eq!(p.len(), ema.len());
    let rest = (1.0 - decay) as f32;
    let ema = Shared::new(ema);
    parts(team, p.len(), |begin, len| {
        // SAFETY: only this task accesses its part.
        unsafe { approach(isa, rest, &p[begin..begin + len], ema.part(begin, len)) }
    });
}

kernel! {
    unsafe fn approach<S>(_s, rest: f32, p: &[f32], ema: &mut [f32]) {
        for (ema, p) in ema.iter_mut().zip(p) {
            // Unlike decay·ema + …, this form leaves the average exactly unchanged where p equals it.
            *ema += rest * (p - *ema);
        }
    }
}

/// x *= a.
pub fn scale(isa: Isa, team: &Team, a: f32, x: &mut [f32]) {
    let len = x.len();
    let x = Shared::new(x);
    parts(team, len, |begin, len| {
        // SAFETY: only this task accesses its part.
        unsafe { multiply(isa, a, x.part(begin, len)) }
    });
}

kernel! {
    unsafe fn multiply<S>(_s, a: f32, x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x *= a);
    }
}

/// Σ x², in f64. The result is not finite if any element is not.
pub fn squared_norm(isa: Isa, x: &[f32]) -> f64 {
    // SAFETY: the kernel only reads the slice.
    x.chunks(4096).map(|x| unsafe { squares(isa, x) }).sum()
}

kernel! {
    unsafe fn squares<S>(s, x: &[f32]) -> f64 {
        let mut sum = s.zero();
        for i in (0..x.len()).step_by(S::LANES) {
            // SAFETY: reads only the elements that remain from i on.
            let v = unsafe { s.load_first(x.as_ptr().add(i), (x.len() - i).min(S::LANES)) };
            sum = s.fma(v, v, sum);
        }
        total(s, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_adam_step_moves_by_the_learning_rate() {
        // m/(1−β₁) = g and √(v/(1−β₂)) = |g|, so the step is lr·sign(g).
        let adam = Adam { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-12, weight_decay: 0.0, decoupled: false };
        let (mut p, mut m, mut v) = (vec![1.0f32, -2.0], vec![0.0; 2], vec![0.0; 2]);
        adam.step(Isa::best(), Team::solo(), 1, &[0.3, -5.0], &mut p, &mut m, &mut v);
        assert!((p[0] - 0.9).abs() < 1e-5 && (p[1] + 1.9).abs() < 1e-5, "{p:?}");
    }

    #[test]
    fn decoupled_decay_shrinks_weights_without_gradient() {
        let adam = Adam { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.5, decoupled: true };
        let (mut p, mut m, mut v) = (vec![2.0f32], vec![0.0], vec![0.0]);
        adam.step(Isa::best(), Team::solo(), 1, &[0.0], &mut p, &mut m, &mut v);
        assert!((p[0] - 2.0 * 0.95).abs() < 1e-6);
    }

    #[test]
    fn the_average_of_a_constant_is_that_constant() {
        let mut ema = vec![0.0f32];
        for _ in 0..2000 {
            moving_average(Isa::best(), Team::solo(), 0.99, &[3.0], &mut ema);
        }
        assert!((ema[0] - 3.0).abs() < 1e-4);
    }
}
