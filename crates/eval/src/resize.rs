//! Bilinear resizing, as in PyTorch's `interpolate(mode="bilinear", align_corners=False)`.

use ndarray::ArrayView2;

/// The values of a plane resized to `size`, row by row: pixel centres at halves, the edge repeated, no smoothing when the
/// image becomes smaller.
pub(super) fn bilinear(plane: ArrayView2<'_, f32>, [height, width]: [usize; 2]) -> Vec<f32> {
    let (h, w) = plane.dim();
    if (h, w) == (height, width) {
        return plane.iter().copied().collect();
    }
    let (rows, columns) = (places(h, height), places(w, width));
    let mut values = Vec::with_capacity(height * width);
    for &(y0, y1, fy) in &rows {
        for &(x0, x1, fx) in &columns {
            let line = |y: usize| (1.0 - fx) * f64::from(plane[[y, x0]]) + fx * f64::from(plane[[y, x1]]);
            values.push(((1.0 - fy) * line(y0) + fy * line(y1)) as f32);
        }
    }
    values
}

/// For each of `to` pixels, the two neighbouring pixels of `from` and the distance from the first.
fn places(from: usize, to: usize) -> Vec<(usize, usize, f64)> {
    let scale = from as f64 / to as f64;
    let place = |i: usize| {
        let x = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
        let first = (x as usize).min(from - 1);
        (first, (first + 1).min(from - 1), x - first as f64)
    };
    (0..to).map(place).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_ramp_stays_a_ramp_and_the_edge_is_repeated() {
        // Centres of four pixels over two: 0.25·0 + … at −0.25 (edge), 0.25, 0.75, 1.25 (edge).
        assert_eq!(bilinear(array![[0.0, 4.0]].view(), [1, 4]), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(bilinear(array![[0.0], [4.0]].view(), [4, 1]), [0.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn smaller_takes_the_two_nearest_and_no_more() {
        // Six pixels to two: centres at 1 and 4. To three: at 0.5, 2.5, 4.5.
        let row = array![[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]];
        assert_eq!(bilinear(row.view(), [1, 2]), [2.0, 16.0]);
        assert_eq!(bilinear(row.view(), [1, 3]), [1.5, 6.0, 24.0]);
        assert_eq!(bilinear(row.view(), [1, 6]), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
    }
}
