//! Conversion of network values to pixels and back.

use ndarray::{Array3, Array4, ArrayView3, Axis};

use crate::error::{Error, Kind, Result};

/// Maximum size of a picture in bytes; a larger grid is surely a mistake.
const MAX_BYTES: usize = 1 << 30;

/// The byte nearest to a network value: −1..1 maps to 0..255, clamped, with halves rounded up.
///
/// It inverts x = byte/127.5 − 1 for every byte.
pub fn to_byte(x: f32) -> u8 {
    // In f64: in f32 the sum can round across a half. The cast saturates.
    ((f64::from(x) + 1.0) * 127.5 + 0.5).floor() as u8
}

/// The network value of a byte, byte/127.5 − 1.
pub(crate) fn from_byte(byte: u8) -> f32 {
    (f64::from(byte) / 127.5 - 1.0) as f32
}

/// Composites a channel value over a background: c·α + b·(1−α), rounded half up.
pub(crate) fn blend(value: u8, alpha: u8, background: u8) -> u8 {
    let alpha = u32::from(alpha);
    let sum = u32::from(value) * alpha + u32::from(background) * (255 - alpha);
    ((2 * sum + 255) / 510) as u8
}

/// Whether images with this many channels are pictures, gray or in colour.
///
/// ```
/// assert_eq!([1, 2, 3, 5].map(skipstone::io::image::is_picture), [true, false, true, false]);
/// ```
pub fn is_picture(channels: usize) -> bool {
    matches!(channels, 1 | 3)
}

/// Reads height and width as people write them, `32x48` or one number for both. `None` if a number is missing or 0.
///
/// ```
/// use skipstone::io::image::parse_size;
/// assert_eq!((parse_size("32x48"), parse_size("28")), (Some([32, 48]), Some([28, 28])));
/// assert_eq!(parse_size("32x0"), None);
/// ```
pub fn parse_size(text: &str) -> Option<[usize; 2]> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    let side = |text: &str| text.parse().ok().filter(|&n: &usize| n > 0);
    Some([side(height)?, side(width)?])
}

/// The number of channels that a picture shows of an image with `channels`: 1 of 1 or 2, otherwise the first 3.
///
/// ```
/// assert_eq!([1, 2, 3, 5].map(skipstone::io::image::shown_channels), [1, 1, 3, 3]);
/// ```
pub fn shown_channels(channels: usize) -> usize {
    if channels < 3 { 1 } else { 3 }
}

/// Pixels row by row with interleaved channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
}

/// The layout of a grid of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Pixels between images and around them, before scaling.
    pub gutter: usize,
    /// Gray level of the gutter.
    pub background: u8,
    /// Side length of the square that each image pixel becomes.
    pub scale: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self { gutter: 2, background: 255, scale: 1 }
    }
}

impl Layout {
    /// The default layout, with small images magnified by a whole number towards 64 pixels a side.
    pub fn magnified(height: usize, width: usize) -> Self {
        Self { scale: (64 / height.max(width).max(1)).max(1), ..Self::default() }
    }
}

impl Picture {
    /// A picture of `height` rows of `width` pixels with `channels` values each: 1 (gray) or 3 (red, green, blue).
    ///
    /// # Errors
    /// The picture is empty, has another number of channels, or the length of `data` does not fit.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        let size = checked_size(width, height, channels)?;
        if data.len() != size {
            return Err(Error::argument(format!(
                "picture of {width}×{height}×{channels}: expected {size} bytes, found {}",
                data.len()
            )));
        }
        Ok(Self { width, height, channels, data })
    }

    /// The picture of an image `[channels, height, width]` of network values.
    ///
    /// # Errors
    /// The image has neither 1 nor 3 channels (only `.npy` files hold those), or a value is not finite.
    pub fn from_image(image: ArrayView3<'_, f32>) -> Result<Self> {
        let images = image.insert_axis(Axis(0));
        grid_of(images.outer_iter().collect(), 1, &Layout { gutter: 0, ..Layout::default() })
    }

    /// The pixels as network values, `[channels, height, width]`: byte/127.5 − 1.
    pub fn to_image(&self) -> Array3<f32> {
        let at = |(c, y, x): (usize, usize, usize)| self.data[(y * self.width + x) * self.channels + c];
        Array3::from_shape_fn((self.channels, self.height, self.width), |i| from_byte(at(i)))
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Number of channels, 1 or 3.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bytes, row by row with interleaved channels.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The picture magnified by `factor`, with each pixel a square.
    ///
    /// # Errors
    /// `factor` is 0, or the result is too large.
    pub fn scaled(&self, factor: usize) -> Result<Self> {
        if factor == 0 {
            return Err(Error::argument("picture scale: expected at least 1, found 0"));
        }
        let (width, height) = (self.width.saturating_mul(factor), self.height.saturating_mul(factor));
        let mut data = Vec::with_capacity(checked_size(width, height, self.channels)?);
        for row in self.data.chunks_exact(self.width * self.channels) {
            let start = data.len();
            for pixel in row.chunks_exact(self.channels) {
                for _ in 0..factor {
                    data.extend_from_slice(pixel);
                }
            }
            let end = data.len();
            for _ in 1..factor {
                data.extend_from_within(start..end);
            }
        }
        Ok(Self { width, height, channels: self.channels, data })
    }
}

/// Columns of a nearly square grid of `n` images: ⌈√n⌉.
pub fn near_square(n: usize) -> usize {
    let root = n.isqrt();
    (if root * root < n { root + 1 } else { root }).max(1)
}

/// A picture of all `images`, `[n, channels, height, width]`, row by row.
///
/// ```
/// use skipstone::io::image::{Layout, grid, near_square};
/// let images = ndarray::Array4::zeros((5, 1, 28, 28));
/// let picture = grid(&images, near_square(5), &Layout::default()).unwrap();
/// assert_eq!((picture.width(), picture.height()), (3 * 30 + 2, 2 * 30 + 2));
/// ```
///
/// # Errors
/// There is no image or no column, the images have neither 1 nor 3 channels (only `.npy` files hold those), a value is
/// not finite, or the picture exceeds 1 GiB.
pub fn grid(images: &Array4<f32>, columns: usize, layout: &Layout) -> Result<Picture> {
    grid_of(images.outer_iter().collect(), columns, layout)
}

/// A picture of a process, with a row per image and a column per step.
///
/// # Errors
/// As [`grid`]; also if the steps have different shapes.
pub fn film_strip(steps: &[Array4<f32>], layout: &Layout) -> Result<Picture> {
    let Some(first) = steps.first() else {
        return Err(Error::argument("a film strip needs at least one step"));
    };
    if let Some(other) = steps.iter().find(|step| step.dim() != first.dim()) {
        let (a, b) = (first.shape(), other.shape());
        return Err(Error::argument(format!("a film strip needs steps of equal shape, found {a:?} and {b:?}")));
    }
    let rows = 0..first.len_of(Axis(0));
    grid_of(rows.flat_map(|i| steps.iter().map(move |s| s.index_axis(Axis(0), i))).collect(), steps.len(), layout)
}

fn grid_of(images: Vec<ArrayView3<'_, f32>>, columns: usize, layout: &Layout) -> Result<Picture> {
    let (Some(first), true) = (images.first(), columns > 0) else {
        return Err(Error::argument(format!(
            "a grid needs at least 1 image and 1 column, found {} and {columns}",
            images.len()
        )));
    };
    let (channels, h, w) = first.dim();
    let columns = columns.min(images.len());
    let rows = images.len().div_ceil(columns);
    let gap = layout.gutter;
    let side = |count: usize, size: usize| size.saturating_add(gap).saturating_mul(count).saturating_add(gap);
    let (width, height) = (side(columns, w), side(rows, h));
    checked_size(width.saturating_mul(layout.scale), height.saturating_mul(layout.scale), channels)?;
    let mut data = vec![layout.background; checked_size(width, height, channels)?];
    for (i, image) in images.iter().enumerate() {
        let (left, top) = (gap + (i % columns) * (w + gap), gap + (i / columns) * (h + gap));
        for ((c, y, x), &value) in image.indexed_iter() {
            if !value.is_finite() {
                let message = format!("image {i}: channel {c}, row {y}, column {x} is {value}, which has no colour");
                return Err(Error::new(Kind::NonFinite, message));
            }
            data[((top + y) * width + left + x) * channels + c] = to_byte(value);
        }
    }
    let picture = Picture { width, height, channels, data };
    if layout.scale == 1 { Ok(picture) } else { picture.scaled(layout.scale) }
}

/// Size of a picture in bytes.
fn checked_size(width: usize, height: usize, channels: usize) -> Result<usize> {
    if !is_picture(channels) {
        return Err(Error::unsupported(format!(
            "a picture has 1 (gray) or 3 (colour) channels, found {channels}; write a .npy file instead"
        )));
    }
    let size = width.checked_mul(height).and_then(|area| area.checked_mul(channels)).filter(|&size| size <= MAX_BYTES);
    match size {
        Some(0) => Err(Error::argument(format!("the picture is empty: {width}×{height} pixels"))),
        Some(size) => Ok(size),
        None => Err(Error::argument(format!(
            "a picture of {width}×{height}×{channels} exceeds {MAX_BYTES} bytes; write fewer images or a folder"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn bytes_survive_the_way_to_network_values_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        let picture = Picture::new(256, 1, 1, all.clone()).unwrap();
        assert_eq!(Picture::from_image(picture.to_image().view()).unwrap().data(), all);
    }

    #[test]
    fn values_are_clamped_and_halves_round_up() {
        // x = 0 maps to 127.5, which rounds up. One ulp below rounds down.
        let values = [-1.0, 1.0, 0.0, -f32::EPSILON / 2.0, -7.0, 7.0, f32::MAX, f32::MIN, 0.5];
        assert_eq!(values.map(to_byte), [0, 255, 128, 127, 0, 255, 255, 0, 191]);
    }

    #[test]
    fn a_grid_sets_images_row_by_row_between_gutters() {
        let images = array![[[[-1.0f32, 1.0]]], [[[1.0, 1.0]]], [[[-1.0, -1.0]]]];
        let layout = Layout { gutter: 1, background: 9, scale: 1 };
        let picture = grid(&images, 2, &layout).unwrap();
        assert_eq!((picture.width(), picture.height(), picture.channels()), (7, 5, 1));
        #[rustfmt::skip]
        let expected = [
            9, 9,   9,   9, 9,   9,   9,
            9, 0,   255, 9, 255, 255, 9,
            9, 9,   9,   9, 9,   9,   9,
            9, 0,   0,   9, 9,   9,   9,
            9, 9,   9,   9, 9,   9,   9,
        ];
        assert_eq!(picture.data(), expected);
    }

    #[test]
    fn a_film_strip_has_a_row_for_each_image_and_a_column_for_each_step() {
        let step = |a: f32, b: f32| array![[[[a]]], [[[b]]]];
        let layout = Layout { gutter: 0, ..Layout::default() };
        let strip = film_strip(&[step(-1.0, 0.0), step(0.0, 1.0), step(1.0, 1.0)], &layout).unwrap();
        assert_eq!((strip.width(), strip.height()), (3, 2));
        assert_eq!(strip.data(), [0, 128, 255, 128, 255, 255]);
        assert!(film_strip(&[], &layout).is_err());
        assert!(film_strip(&[step(0.0, 0.0), Array4::zeros((1, 1, 1, 1))], &layout).is_err());
    }

    #[test]
    fn scaling_makes_squares_of_pixels() {
        let picture = Picture::new(2, 1, 3, vec![1, 2, 3, 4, 5, 6]).unwrap().scaled(2).unwrap();
        assert_eq!((picture.width(), picture.height()), (4, 2));
        assert_eq!(picture.data(), [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6].repeat(2));
        assert!(picture.scaled(0).is_err());
        assert!(picture.scaled(1 << 40).is_err());
        assert_eq!((Layout::magnified(28, 28).scale, Layout::magnified(256, 256).scale), (2, 1));
    }

    #[test]
    fn columns_of_a_near_square() {
        assert_eq!([0, 1, 2, 4, 5, 9, 10, 64, 65].map(near_square), [1, 1, 2, 2, 3, 3, 4, 8, 9]);
    }

    #[test]
    fn what_has_no_picture_is_an_error_with_a_remedy() {
        let layout = Layout::default();
        let error = grid(&Array4::zeros((1, 4, 2, 2)), 1, &layout).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().contains(".npy"), "{error}");
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(grid(&array![[[[bad]]]], 1, &layout).unwrap_err().kind(), Kind::NonFinite);
        }
        assert!(grid(&Array4::zeros((0, 1, 2, 2)), 1, &layout).is_err());
        assert!(grid(&Array4::zeros((1, 1, 2, 2)), 0, &layout).is_err());
        assert!(Picture::new(2, 2, 1, vec![0; 5]).is_err());
    }
}
