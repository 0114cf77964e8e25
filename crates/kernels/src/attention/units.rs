//! Attention on matrix units: scores and outputs are products in bf16, the softmax between them is in f32.

use super::{Shape, exponentials};
use crate::isa::Isa;
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};
use crate::units::{self, DEPTH, PANEL_STEP, SIDE, Units};
use crate::view::{View, ViewMut};

/// Numbers of a head's queries, keys and values as they are staged, and of the pixels and channels they are padded to.
#[derive(Clone, Copy)]
struct Sizes {
    pixels: usize,
    channels: usize,
    /// Numbers of each of the three.
    each: usize,
}

/// What all tasks of a call share.
struct Call<'a> {
    shape: &'a Shape,
    units: Units,
    isa: Isa,
    qkv: [View<'a>; 3],
    sizes: Sizes,
}

/// As [`super::forward`], which has checked the views.
pub(super) fn forward(
    shape: &Shape,
    units: Units,
    isa: Isa,
    team: &Team,
    n: usize,
    qkv: View<'_>,
    y: &mut ViewMut<'_>,
) {
    let [pixels, channels] = [shape.pixels, shape.head_dim()].map(|size| size.next_multiple_of(SIDE));
    let sizes = Sizes { pixels, channels, each: pixels * channels };
    let call = Call { shape, units, isa, qkv: shape.split(qkv), sizes };
    let y = y.share(n * shape.pixels, shape.channels, "output of attention");
    let heads = n * shape.heads;
    let blocks = pixels / SIDE;
    with_scratch(heads * 3 * sizes.each / 2, |staged| {
        let staged = SharedMut::new(staged);
        let of_head = |head: usize| staged.pointer().cast::<u16>().wrapping_add(head * 3 * sizes.each);
        team.run(heads * blocks, |task| {
            // SAFETY: there is room for each head; only this task accesses what it stages.
            unsafe { call.stage(task / blocks, task % blocks, of_head(task / blocks)) };
        });
        team.run(heads * blocks, |task| {
            let (head, block) = (task / blocks, task % blocks);
            let first = block * SIDE;
            call.attend(of_head(head), first, |i, channel, values, inverse| {
                let (row, at) = (head / shape.heads * shape.pixels + first + i, head % shape.heads * shape.head_dim());
                let len = values.len().min(shape.head_dim() - channel);
                // SAFETY: only this task accesses the head's channels of this query.
                let y = unsafe { y.part(row, at + channel, len) };
                y.iter_mut().zip(values).for_each(|(y, value)| *y = value * inverse);
            });
        });
    });
}

impl Call<'_> {
    /// Stages 32 pixels of a head: queries as rows, keys as a panel of columns, values as a step of all panels.
    ///
    /// # Safety
    /// `to` has room for the three; nobody else accesses this part of them.
    unsafe fn stage(&self, head: usize, block: usize, to: *mut u16) {
        let Sizes { channels, each, pixels } = self.sizes;
        let (d, units) = (self.shape.head_dim(), self.units);
        let (image, channel) = (head / self.shape.heads, head % self.shape.heads * d);
        let first = block * SIDE;
        let count = SIDE.min(self.shape.pixels - first);
        with_scratch(SIDE * channels, |rows| {
            for (which, of) in self.qkv.into_iter().enumerate() {
                for (i, row) in rows.chunks_exact_mut(channels).enumerate() {
                    let len = if i < count { d } else { 0 };
                    row[len..].fill(0.0);
                    if len > 0 {
                        let pixel = image * self.shape.pixels + first + i;
                        row[..d].copy_from_slice(&of.row(pixel, channel + d)[channel..]);
                    }
                }
                let to = to.wrapping_add(which * each);
                let rows = rows.as_ptr();
                // SAFETY: 32 rows of whole steps of channels; the caller guarantees the rest.
                unsafe {
                    match which {
                        0 => units::narrow_rows(
                            units,
                            SIDE,
                            channels,
                            rows,
                            channels,
                            to.add(first * channels),
                            channels,
                        ),
                        1 => {
                            for step in 0..channels / DEPTH {
                                let tiles = to.add((block * channels / DEPTH + step) * PANEL_STEP);
                                units::narrow_columns(units, rows.add(step * DEPTH), channels, tiles);
                            }
                        }
                        _ => {
                            for tile in 0..channels / 16 {
                                let at = (tile / 2 * pixels / DEPTH + block) * PANEL_STEP + tile % 2 * PANEL_STEP / 2;
                                for pair in 0..DEPTH / 2 {
                                    let even = rows.add(2 * pair * channels + 16 * tile);
                                    units::narrow_pair(units, even, even.add(channels), 16, to.add(at + 32 * pair));
                                }
                            }
                        }
                    }
                }
            }
        });
    }

    /// Computes the outputs of 32 queries. `write` receives, for each query, its number, the channels from one on, not yet
    /// divided by the sum of probabilities, and the inverse of that sum.
    fn attend(&self, staged: *const u16, first: usize, write: impl Fn(usize, usize, &[f32], f32)) {
        let Sizes { pixels, channels, each } = self.sizes;
        let count = SIDE.min(self.shape.pixels - first);
        let offsets = |len: usize| (0..len / DEPTH).map(|step| 2 * step * DEPTH).collect::<Vec<_>>();
        let (by_channel, by_pixel) = (offsets(channels), offsets(pixels));
        let tiles = self.units.configure();
        with_scratch(SIDE * (pixels + pixels / 2 + SIDE), |scratch| {
            let (scores, rest) = scratch.split_at_mut(SIDE * pixels);
            let (rounded, out) = rest.split_at_mut(SIDE * pixels / 2);
            let rounded = rounded.as_mut_ptr().cast::<u16>();
            let mut inverse = [0.0; SIDE];
            let [keys, values] = [1, 2].map(|which| staged.wrapping_add(which * each));
            // SAFETY: everything is staged and padded to whole tiles, and the scratch has room for the results.
            unsafe {
                for panel in 0..pixels / SIDE {
                    let keys = keys.add(panel * SIDE * channels);
                    let to = scores.as_mut_ptr().add(panel * SIDE);
                    tiles.product(staged.add(first * channels), 2 * channels, &by_channel, keys, to, 4 * pixels);
                }
                let (len, scale) = (self.shape.pixels, self.shape.scale());
                exponentials(self.isa, len, pixels, scale, &mut scores[..count * pixels], &mut inverse[..count]);
                units::narrow_rows(self.units, SIDE, pixels, scores.as_ptr(), pixels, rounded, pixels);
                for panel in 0..channels / SIDE {
                    let values = values.add(panel * SIDE * pixels);
                    tiles.product(rounded, 2 * pixels, &by_pixel, values, out.as_mut_ptr(), 4 * SIDE);
                    for (i, out) in out.chunks_exact(SIDE).take(count).enumerate() {
                        write(i, panel * SIDE, out, inverse[i]);
                    }
                }
            }
        });
    }
}
