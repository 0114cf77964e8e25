//! Fits a picture of any size to a data set's shape: centre crop, antialiased resize, gray or colour.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use crate::error::{Error, Result};
use crate::io::image::{blend, is_picture};

/// The default colour behind transparent pixels.
pub const WHITE: [u8; 3] = [255; 3];

/// Maximum side length of a fitted picture.
const MAX_SIDE: usize = 1 << 14;

/// The shape that images are fitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Height and width in pixels.
    pub size: [usize; 2],
    /// Channels: 1 (gray) or 3 (red, green, blue).
    pub channels: usize,
    /// The colour behind transparent pixels.
    pub background: [u8; 3],
}

impl Fit {
    /// Checks that images can have this shape.
    ///
    /// # Errors
    /// A side is 0 or above 16384, or the number of channels is neither 1 nor 3.
    pub fn validate(&self) -> Result<()> {
        if let Some(side) = self.size.iter().find(|&&side| side == 0 || side > MAX_SIDE) {
            return Err(Error::argument(format!("image size: expected 1 to {MAX_SIDE}, found {side}")));
        }
        if !is_picture(self.channels) {
            return Err(Error::argument(format!("image channels: expected 1 or 3, found {}", self.channels)));
        }
        Ok(())
    }
}

/// A picture with 1 or 3 interleaved channels.
pub(super) struct Pixels {
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    pub data: Vec<u8>,
}

impl Pixels {
    /// Composites RGBA pixels over `background`: c·α + b·(1−α) on the stored values, rounded half up.
    pub fn composite(width: usize, height: usize, rgba: &[u8], background: [u8; 3]) -> Self {
        let mut data = Vec::with_capacity(rgba.len() / 4 * 3);
        for pixel in rgba.chunks_exact(4) {
            data.extend(pixel[..3].iter().zip(background).map(|(&c, b)| blend(c, pixel[3], b)));
        }
        Self { width, height, channels: 3, data }
    }

    /// Converts colour to gray by the luma of Rec. 601 (0.299 R + 0.587 G + 0.114 B, rounded half up), or gray to
    /// colour by repetition.
    pub fn with_channels(self, channels: usize) -> Self {
        let data = match (self.channels, channels) {
            (3, 1) => {
                let luma =
                    |p: &[u8]| (299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]) + 500) / 1000;
                self.data.chunks_exact(3).map(|p| luma(p) as u8).collect()
            }
            (1, 3) => self.data.iter().flat_map(|&v| [v; 3]).collect(),
            _ => self.data,
        };
        Self { channels, data, ..self }
    }

    /// Crops the largest centred rectangle of the wanted aspect ratio and resizes it to `[height, width]`.
    ///
    /// The filter is bicubic (a = −½), widened for downsizing to avoid aliasing. A picture that already has the wanted
    /// size is returned unchanged.
    pub fn resized(self, [height, width]: [usize; 2]) -> Result<Self> {
        if [self.height, self.width] == [height, width] {
            return Ok(self);
        }
        let [left, top, crop_width, crop_height] = centre_crop(self.width, self.height, width, height);
        // Cropped beforehand: with the resizer's own crop box, the filter would still see the pixels outside.
        let rows = self.data.chunks_exact(self.width * self.channels).skip(top).take(crop_height);
        let columns = left * self.channels..(left + crop_width) * self.channels;
        let mut data = vec![0; width * height * self.channels];
        for c in 0..self.channels {
            let mut plane = Vec::with_capacity(crop_width * crop_height);
            for row in rows.clone() {
                plane.extend(row[columns.clone()].chunks_exact(self.channels).map(|pixel| pixel[c]));
            }
            let plane = resample(&plane, [crop_width, crop_height], [width, height])?;
            for (pixel, value) in data.chunks_exact_mut(self.channels).zip(plane) {
                pixel[c] = value;
            }
        }
        Ok(Self { width, height, channels: self.channels, data })
    }

    /// Fits the picture to `fit` and writes it in planes, `[channels, height, width]`.
    pub fn fit_into(self, fit: &Fit, planes: &mut [u8]) -> Result<()> {
        // Gray has one plane to resize instead of three, so resize whichever side of the conversion is gray.
        let fitted = if fit.channels < self.channels {
            self.with_channels(fit.channels).resized(fit.size)?
        } else {
            self.resized(fit.size)?.with_channels(fit.channels)
        };
        let area = fit.size[0] * fit.size[1];
        for (c, plane) in planes.chunks_exact_mut(area).enumerate() {
            for (value, pixel) in plane.iter_mut().zip(fitted.data.chunks_exact(fit.channels)) {
                *value = pixel[c];
            }
        }
        Ok(())
    }
}

/// Resizes a plane, sizes as `[width, height]`.
///
/// The library compiles its filters into this crate for every type of pixel that a call may have. For all types they were more
/// than half of its machine code, so planes of bytes are the only type here.
fn resample(plane: &[u8], from: [usize; 2], to: [usize; 2]) -> Result<Vec<u8>> {
    let fail = |e: &dyn std::fmt::Display| Error::data(format!("cannot resize the image: {e}"));
    let ([width, height], [new_width, new_height]) = (from.map(|side| side as u32), to.map(|side| side as u32));
    let mut resized = vec![0; to[0] * to[1]];
    let source = TypedImageRef::<U8>::from_buffer(width, height, plane).map_err(|e| fail(&e))?;
    let mut target = TypedImage::<U8>::from_buffer(new_width, new_height, &mut resized).map_err(|e| fail(&e))?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new().resize_typed(&source, &mut target, &options).map_err(|e| fail(&e))?;
    Ok(resized)
}

/// `[left, top, width, height]` of the largest centred rectangle with aspect ratio `width : height`.
fn centre_crop(from_width: usize, from_height: usize, width: usize, height: usize) -> [usize; 4] {
    let rounded = |a: usize, b: usize, c: usize| ((2 * a * b + c) / (2 * c)).max(1);
    let (crop_width, crop_height) = if from_width * height > from_height * width {
        (rounded(from_height, width, height).min(from_width), from_height)
    } else {
        (from_width, rounded(from_width, height, width).min(from_height))
    };
    [(from_width - crop_width) / 2, (from_height - crop_height) / 2, crop_width, crop_height]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparent_pixels_show_the_background_in_proportion() {
        let rgba = [200, 100, 0, 255, 200, 100, 0, 0, 200, 100, 0, 128, 10, 20, 30, 1];
        let seen = Pixels::composite(4, 1, &rgba, [10, 20, 250]);
        // At alpha 128: (200·128 + 10·127)/255 = 105.37, (100·128 + 20·127)/255 = 60.16, 250·127/255 = 124.51.
        // At alpha 1: (10 + 10·254)/255 = 10, (20 + 20·254)/255 = 20, (30 + 250·254)/255 = 249.14.
        assert_eq!(seen.data, [200, 100, 0, 10, 20, 250, 105, 60, 125, 10, 20, 249]);
    }

    #[test]
    fn gray_is_rec_601_luma_and_colour_repeats_gray() {
        let rgb =
            Pixels { width: 4, height: 1, channels: 3, data: vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255] };
        // 76.245, 149.685, 29.07, 255
        let gray = rgb.with_channels(1);
        assert_eq!(gray.data, [76, 150, 29, 255]);
        assert_eq!(gray.with_channels(3).data[..6], [76, 76, 76, 150, 150, 150]);
    }

    #[test]
    fn the_crop_is_centred_and_has_the_wanted_proportions() {
        assert_eq!(centre_crop(300, 200, 64, 64), [50, 0, 200, 200]);
        assert_eq!(centre_crop(200, 301, 64, 64), [0, 50, 200, 200]);
        assert_eq!(centre_crop(100, 100, 64, 32), [0, 25, 100, 50]);
        assert_eq!(centre_crop(1000, 1, 64, 64), [499, 0, 1, 1]);
        assert_eq!(centre_crop(1, 1, 7, 5), [0, 0, 1, 1]);
    }

    #[test]
    fn only_the_centre_of_a_wide_picture_remains_and_planes_are_separated() {
        // Black sides, a coloured 2×2 centre.
        let mut data = vec![0; 6 * 2 * 3];
        for (y, x) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
            data[(y * 6 + x) * 3..][..3].copy_from_slice(&[10, 20, 30]);
        }
        let wide = Pixels { width: 6, height: 2, channels: 3, data };
        let mut planes = [0; 3 * 16];
        wide.fit_into(&Fit { size: [4, 4], channels: 3, background: WHITE }, &mut planes).unwrap();
        for (plane, value) in planes.chunks(16).zip([10, 20, 30]) {
            assert_eq!(plane, [value; 16]);
        }
    }

    #[test]
    fn shrinking_a_fine_checkerboard_gives_its_mean_not_an_alias() {
        let data = (0..64 * 64).map(|i| if (i / 64 + i % 64) % 2 == 0 { 255 } else { 0 }).collect();
        let small = Pixels { width: 64, height: 64, channels: 1, data }.resized([8, 8]).unwrap();
        assert!(small.data.iter().all(|v| (123..=132).contains(v)), "{:?}", small.data);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for (size, channels) in [([0, 8], 1), ([8, 1 << 15], 1), ([8, 8], 2), ([8, 8], 4)] {
            assert!(Fit { size, channels, background: WHITE }.validate().is_err());
        }
    }
}
