//! Interpolation between latents: slerp, lines and grids (DDIM §5.3); and the distance between images decoded from the
//! same latents (§5.2).

mod distance;

pub use distance::{Distance, SQUARE, distance};

use ndarray::{Array3, Array4, ArrayView3, Axis, Zip};

use crate::error::{Error, Kind, Result};

/// Below this angle slerp interpolates linearly: sin θ would cancel.
const PARALLEL: f64 = 1e-6;
/// Within this angle of π slerp refuses: the great circle is not unique.
const ANTIPARALLEL: f64 = 1e-4;

/// Spherical interpolation of latents `[c, h, w]` (DDIM appendix D.5): sin((1−λ)θ)/sinθ·a + sin(λθ)/sinθ·b, where θ is the
/// angle between the flattened latents. λ = 0 gives `a` and λ = 1 gives `b`, bit for bit.
///
/// Interpolation is linear where the latents are nearly parallel or one of them is zero.
///
/// ```
/// use ndarray::array;
/// let (a, b) = (array![[[1.0f32, 0.0]]], array![[[0.0f32, 1.0]]]);
/// let half = skipstone::math::latent::slerp(a.view(), b.view(), 0.5)?;
/// assert!((half[[0, 0, 0]] - 0.5f32.sqrt()).abs() < 1e-7);
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The shapes differ, a value is not finite, λ is outside 0..=1, or the latents are antiparallel, so that no shortest
/// great circle exists.
pub fn slerp(a: ArrayView3<'_, f32>, b: ArrayView3<'_, f32>, lambda: f64) -> Result<Array3<f32>> {
    if a.dim() != b.dim() {
        let (a, b) = (a.shape(), b.shape());
        return Err(Error::argument(format!("latents: expected the same shape, found {a:?} and {b:?}")));
    }
    if !(0.0..=1.0).contains(&lambda) {
        return Err(Error::argument(format!("lambda: expected 0 to 1, found {lambda}")));
    }
    let (of_a, of_b) = weights(a, b, lambda)?;
    Ok(Zip::from(a).and(b).map_collect(|&a, &b| (of_a * f64::from(a) + of_b * f64::from(b)) as f32))
}

/// The weights of `a` and `b`.
fn weights(a: ArrayView3<'_, f32>, b: ArrayView3<'_, f32>, lambda: f64) -> Result<(f64, f64)> {
    let (mut aa, mut bb) = (0.0, 0.0);
    Zip::from(a).and(b).for_each(|&a, &b| {
        aa += f64::from(a) * f64::from(a);
        bb += f64::from(b) * f64::from(b);
    });
    if !(f64::is_finite(aa) && f64::is_finite(bb)) {
        return Err(Error::new(Kind::NonFinite, "latents: expected finite values, found NaN or infinity"));
    }
    let (straight, ends) = ((1.0 - lambda, lambda), lambda == 0.0 || lambda == 1.0);
    if ends || aa == 0.0 || bb == 0.0 {
        return Ok(straight);
    }
    // 2·atan2(‖u − v‖, ‖u + v‖) for unit vectors u and v: the arc cosine loses half its digits near 0 and π.
    let (na, nb) = (aa.sqrt(), bb.sqrt());
    let (mut apart, mut along) = (0.0, 0.0);
    Zip::from(a).and(b).for_each(|&a, &b| {
        let (u, v) = (f64::from(a) / na, f64::from(b) / nb);
        apart += (u - v) * (u - v);
        along += (u + v) * (u + v);
    });
    let theta = 2.0 * apart.sqrt().atan2(along.sqrt());
    if theta < PARALLEL {
        return Ok(straight);
    }
    if std::f64::consts::PI - theta < ANTIPARALLEL {
        return Err(Error::argument(
            "latents: the two ends point in opposite directions, so no shortest path joins them; choose another end",
        ));
    }
    Ok((((1.0 - lambda) * theta).sin() / theta.sin(), (lambda * theta).sin() / theta.sin()))
}

/// λ of point `i` out of `points`, evenly spaced from 0 to 1.
fn lambda(i: usize, points: usize) -> f64 {
    i as f64 / (points - 1) as f64
}

fn check_points(points: usize) -> Result<()> {
    if points >= 2 {
        return Ok(());
    }
    Err(Error::argument(format!("points: expected at least 2 (the two ends), found {points}")))
}

/// `points` latents from `a` to `b`, both ends included: `[points, c, h, w]`.
///
/// # Errors
/// `points` is below 2; or as [`slerp`].
pub fn line(a: ArrayView3<'_, f32>, b: ArrayView3<'_, f32>, points: usize) -> Result<Array4<f32>> {
    check_points(points)?;
    stack((0..points).map(|i| slerp(a, b, lambda(i, points))), a.dim())
}

/// A square grid of `points`² latents between four corners, row by row: `[points², c, h, w]`.
///
/// The corners are a (top left), b (top right), c (bottom left) and d (bottom right). Column j interpolates along a→b and
/// c→d; row i then interpolates between those two latents.
///
/// # Errors
/// As [`line()`].
pub fn grid(corners: [ArrayView3<'_, f32>; 4], points: usize) -> Result<Array4<f32>> {
    check_points(points)?;
    let [a, b, c, d] = corners;
    let (top, bottom) = (line(a, b, points)?, line(c, d, points)?);
    let at = |i: usize, j: usize| slerp(top.index_axis(Axis(0), j), bottom.index_axis(Axis(0), j), lambda(i, points));
    stack((0..points * points).map(|k| at(k / points, k % points)), a.dim())
}

/// A line between two latents or a grid between four, from ends `[2 or 4, c, h, w]`: see [`line()`] and [`grid`].
///
/// # Errors
/// The number of ends is neither 2 nor 4; or as [`line()`].
pub fn between(ends: &Array4<f32>, points: usize) -> Result<Array4<f32>> {
    let end = |i| ends.index_axis(Axis(0), i);
    match ends.dim().0 {
        2 => line(end(0), end(1), points),
        4 => grid([end(0), end(1), end(2), end(3)], points),
        found => Err(Error::argument(format!("ends: expected 2 (a line) or 4 (a grid), found {found}"))),
    }
}

fn stack(
    images: impl ExactSizeIterator<Item = Result<Array3<f32>>>,
    (c, h, w): (usize, usize, usize),
) -> Result<Array4<f32>> {
    let mut out = Array4::zeros((images.len(), c, h, w));
    for (mut row, image) in out.outer_iter_mut().zip(images) {
        row.assign(&image?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
