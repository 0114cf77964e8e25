//! Winograd's minimal filtering F(m×m, 3×3) (Lavin & Gray, arXiv 1509.09308): y = Aᵀ[(G·g·Gᵀ) ⊙ (Bᵀ·d·B)]A.
//!
//! F(4×4) interpolates at 0, ±√½, ±√2 and ∞. The reciprocals and powers of these points stay near 1, which
//! roughly halves the rounding error of the usual points 0, ±1, ±2 and ∞.

use crate::isa::Simd;

/// One-dimensional transforms between SIDE points and OUT outputs. Two-dimensional ones apply them along both axes.
pub(super) trait Transform<const SIDE: usize, const OUT: usize> {
    /// G, which transforms the three weights of a row.
    const G: [[f64; 3]; SIDE];
    /// Bᵀd, which transforms the input.
    fn input<S: Simd>(s: S, d: [S::V; SIDE]) -> [S::V; SIDE];
    /// Aᵀm, which transforms the products back.
    fn output<S: Simd>(s: S, m: [S::V; SIDE]) -> [S::V; OUT];
    /// A·y, the adjoint of [`output`](Self::output).
    fn output_adjoint<S: Simd>(s: S, y: [S::V; OUT]) -> [S::V; SIDE];
}

/// F(2×2, 3×3), at 0, ±1, ∞.
pub(super) struct F2;

impl Transform<4, 2> for F2 {
    const G: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::V; 4]) -> [S::V; 4] {
        [s.sub(d[0], d[2]), s.add(d[1], d[2]), s.sub(d[2], d[1]), s.sub(d[3], d[1])]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::V; 4]) -> [S::V; 2] {
        [s.add(m[0], s.add(m[1], m[2])), s.add(s.sub(m[1], m[2]), m[3])]
    }

    #[inline(always)]
    fn output_adjoint<S: Simd>(s: S, y: [S::V; 2]) -> [S::V; 4] {
        [y[0], s.add(y[0], y[1]), s.sub(y[0], y[1]), y[1]]
    }
}

/// F(4×4, 3×3).
pub(super) struct F4;

/// The points are ±P and ±Q, with P·Q = 1.
const P: f64 = std::f64::consts::FRAC_1_SQRT_2;
const Q: f64 = std::f64::consts::SQRT_2;
/// The product of the distances from ±P (and from ±Q) to all other finite points.
const AT_P: f64 = 2.0 * P * P * (P * P - Q * Q);
const AT_Q: f64 = 2.0 * Q * Q * (Q * Q - P * P);

impl Transform<6, 4> for F4 {
    const G: [[f64; 3]; 6] = [
        [1.0, 0.0, 0.0],
        [1.0 / AT_P, P / AT_P, P * P / AT_P],
        [1.0 / AT_P, -P / AT_P, P * P / AT_P],
        [1.0 / AT_Q, Q / AT_Q, Q * Q / AT_Q],
        [1.0 / AT_Q, -Q / AT_Q, Q * Q / AT_Q],
        [0.0, 0.0, 1.0],
    ];

    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
        let (p2, q2, sum) = (s.splat((-P * P) as f32), s.splat((-Q * Q) as f32), s.splat((-P * P - Q * Q) as f32));
        let (even_p, odd_p) = (s.fma(q2, d[2], d[4]), s.mul(s.splat((P) as f32), s.fma(q2, d[1], d[3])));
        let (even_q, odd_q) = (s.fma(p2, d[2], d[4]), s.mul(s.splat((Q) as f32), s.fma(p2, d[1], d[3])));
        [
            s.add(d[0], s.fma(sum, d[2], d[4])),
            s.add(even_p, odd_p),
            s.sub(even_p, odd_p),
            s.add(even_q, odd_q),
            s.sub(even_q, odd_q),
            s.add(d[1], s.fma(sum, d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
        let (even_p, odd_p) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
        let (even_q, odd_q) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
        [
            s.add(m[0], s.add(even_p, even_q)),
            s.fma(s.splat((Q) as f32), odd_q, s.mul(s.splat((P) as f32), odd_p)),
            s.fma(s.splat((Q * Q) as f32), even_q, s.mul(s.splat((P * P) as f32), even_p)),
            s.fma(s.splat((Q * Q * Q) as f32), odd_q, s.fma(s.splat((P * P * P) as f32), odd_p, m[5])),
        ]
    }

    #[inline(always)]
    fn output_adjoint<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6] {
        let (even_p, odd_p) = (
            s.fma(s.splat((P * P) as f32), y[2], y[0]),
            s.fma(s.splat((P * P * P) as f32), y[3], s.mul(s.splat((P) as f32), y[1])),
        );
        let (even_q, odd_q) = (
            s.fma(s.splat((Q * Q) as f32), y[2], y[0]),
            s.fma(s.splat((Q * Q * Q) as f32), y[3], s.mul(s.splat((Q) as f32), y[1])),
        );
        [y[0], s.add(even_p, odd_p), s.sub(even_p, odd_p), s.add(even_q, odd_q), s.sub(even_q, odd_q), y[3]]
    }
}

/// Applies a one-dimensional transform along both axes of a tile: `$m`×`$m` to `$n`×`$n`. It is a macro because the
/// body of a closure would not be compiled for the caller's instruction set.
macro_rules! both_axes {
    ($s:ident, $tile:expr, $transform:expr, $m:ident, $n:ident) => {{
        let tile = $tile;
        let mut half = [[$s.zero(); $m]; $n];
        for j in 0..$m {
            let mut column = [$s.zero(); $m];
            for i in 0..$m {
                column[i] = tile[i][j];
            }
            let column = $transform($s, column);
            for i in 0..$n {
                half[i][j] = column[i];
            }
        }
        let mut out = [[$s.zero(); $n]; $n];
        for i in 0..$n {
            out[i] = $transform($s, half[i]);
        }
        out
    }};
}

pub(super) use both_axes;
