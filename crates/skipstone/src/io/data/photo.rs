//! Reads a picture file of any supported format, applies its orientation and fits it to a data set's shape.

use std::io::Cursor;
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use ndarray::Array3;

use super::fit::{Fit, Pixels};
use crate::error::{Error, Result};
use crate::io::files;

/// Maximum size of a picture file in bytes.
const MAX_FILE: u64 = 1 << 29;

/// Reads a picture, cropped and resized to `fit`: `[channels, height, width]`.
///
/// # Errors
/// The file is missing, broken, too large or of another format; the error names it.
pub fn read_image(path: &Path, fit: &Fit) -> Result<Array3<u8>> {
    fit.validate()?;
    decode_image(&files::read(path, MAX_FILE)?, fit, &PictureLimits::default()).map_err(|e| e.in_file(path))
}

/// Limits checked against a picture's header before decoding, so that a small file cannot request much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureLimits {
    /// Maximum side length.
    pub side: u32,
    /// Maximum width times height.
    pub pixels: u64,
    /// Maximum bytes for decoding.
    pub memory: u64,
}

impl Default for PictureLimits {
    /// Limits for a user's own files.
    fn default() -> Self {
        Self { side: 1 << 15, pixels: 1 << 29, memory: 1 << 29 }
    }
}

/// As [`read_image`], for the bytes of a file and with the caller's limits.
///
/// ```
/// use skipstone::io::data::{Fit, PictureLimits, WHITE, decode_image};
/// use skipstone::io::image::{Picture, encode_png};
/// let png = encode_png(&Picture::new(2, 2, 1, vec![7; 4])?, &[])?;
/// let fit = Fit { size: [1, 1], channels: 1, background: WHITE };
/// assert_eq!(decode_image(&png, &fit, &PictureLimits::default())?, ndarray::array![[[7]]]);
/// assert!(decode_image(&png, &fit, &PictureLimits { pixels: 3, ..PictureLimits::default() }).is_err());
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The bytes are not a PNG, JPEG or WebP, are truncated or damaged, or exceed the limits.
pub fn decode_image(bytes: &[u8], fit: &Fit, limits: &PictureLimits) -> Result<Array3<u8>> {
    fit.validate()?;
    let [h, w] = fit.size;
    let mut planes = vec![0; fit.channels * h * w];
    decode_planes(bytes, fit, limits, &mut planes)?;
    Array3::from_shape_vec((fit.channels, h, w), planes).map_err(|e| Error::data(e.to_string()))
}

/// As [`decode_image`] with a valid `fit`, into `planes`.
pub(super) fn decode_planes(bytes: &[u8], fit: &Fit, limits: &PictureLimits, planes: &mut [u8]) -> Result<()> {
    pixels(bytes, fit.background, limits)?.fit_into(fit, planes)
}

/// Height and width of a picture as displayed, from its header alone.
///
/// # Errors
/// As [`read_image`].
pub fn image_size(path: &Path) -> Result<[usize; 2]> {
    let bytes = files::read(path, MAX_FILE)?;
    let (decoder, orientation) = open(&bytes, &PictureLimits::default()).map_err(|e| e.in_file(path))?;
    let (width, height) = decoder.dimensions();
    let turned = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    let (width, height) = if turned { (height, width) } else { (width, height) };
    Ok([height as usize, width as usize])
}

/// Decodes a file by its content, applies its orientation and composites transparent parts over `background`.
pub(super) fn decode(path: &Path, background: [u8; 3]) -> Result<Pixels> {
    let bytes = files::read(path, MAX_FILE)?;
    pixels(&bytes, background, &PictureLimits::default()).map_err(|e| e.in_file(path))
}

fn pixels(bytes: &[u8], background: [u8; 3], allowed: &PictureLimits) -> Result<Pixels> {
    let (decoder, orientation) = open(bytes, allowed)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(&e))?;
    picture.apply_orientation(orientation);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let color = picture.color();
    Ok(if color.has_alpha() {
        Pixels::composite(width, height, picture.to_rgba8().as_raw(), background)
    } else if color.has_color() {
        Pixels { width, height, channels: 3, data: picture.into_rgb8().into_raw() }
    } else {
        Pixels { width, height, channels: 1, data: picture.into_luma8().into_raw() }
    })
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::data(format!("unreadable image: {error}"))
}

/// The decoder for a file's content, with its size checked, and the picture's orientation.
fn open<'a>(bytes: &'a [u8], allowed: &PictureLimits) -> Result<(impl ImageDecoder + 'a, Orientation)> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| unreadable(&e))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(allowed.side);
    limits.max_image_height = Some(allowed.side);
    limits.max_alloc = Some(allowed.memory);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| unreadable(&e))?;
    let (width, height) = decoder.dimensions();
    let (area, memory) = (u64::from(width) * u64::from(height), allowed.memory);
    if area == 0 || area > allowed.pixels {
        return Err(Error::data(format!("image of {width}×{height}: expected 1 to {} pixels", allowed.pixels)));
    }
    if decoder.total_bytes() > memory {
        return Err(Error::data(format!(
            "image of {width}×{height} pixels: decoding needs more than the limit of {memory} bytes"
        )));
    }
    let orientation = decoder.orientation().map_err(|e| unreadable(&e))?;
    Ok((decoder, orientation))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ::image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};

    use super::super::WHITE;
    use super::*;
    use crate::error::Kind;

    const GRAY: Fit = Fit { size: [4, 4], channels: 1, background: WHITE };

    #[test]
    fn a_huge_picture_is_refused_by_its_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        GrayImage::from_pixel(9, 5, Luma([1])).save(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[16..24].copy_from_slice(&[0, 0, 0x7f, 0xff, 0, 0, 0x7f, 0xff]);
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        fs::write(&path, bytes).unwrap();
        let error = read_image(&path, &GRAY).unwrap_err();
        assert_eq!(error.path(), Some(path.as_path()));
    }

    #[test]
    fn transparency_and_colour_are_brought_to_the_wanted_channels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clear.png");
        RgbaImage::from_pixel(4, 4, Rgba([0, 0, 0, 0])).save(&path).unwrap();
        assert!(read_image(&path, &GRAY).unwrap().iter().all(|&v| v == 255));
        let blue = Fit { channels: 3, background: [1, 2, 3], ..GRAY };
        assert_eq!(read_image(&path, &blue).unwrap()[[2, 0, 0]], 3);
        RgbImage::from_pixel(4, 4, Rgb([255, 0, 0])).save(&path).unwrap();
        assert!(read_image(&path, &GRAY).unwrap().iter().all(|&v| v == 76));
        assert_eq!(read_image(&path, &Fit { channels: 2, ..GRAY }).unwrap_err().kind(), Kind::InvalidArgument);
    }

    /// Pillow 13: 16×8 pixels, (200, 40, 60) left and (30, 120, 220) right, lossy at quality 60.
    #[rustfmt::skip]
    const LOSSY_WEBP: [u8; 66] = [
        0x52, 0x49, 0x46, 0x46, 0x3a, 0x00, 0x00, 0x00, 0x57, 0x45, 0x42, 0x50, 0x56, 0x50, 0x38, 0x20, 0x2e, 0x00, 0x00, 0x00, 0xb0, 0x01,
        0x00, 0x9d, 0x01, 0x2a, 0x10, 0x00, 0x08, 0x00, 0x02, 0x80, 0x42, 0x25, 0xa0, 0x02, 0x74, 0xb7, 0x00, 0x01, 0xd8, 0x00, 0x00, 0xfe,
        0xea, 0xfb, 0xec, 0xeb, 0xeb, 0x8f, 0x49, 0xb1, 0x1f, 0x41, 0xff, 0xfd, 0x26, 0xce, 0x62, 0xff, 0xc4, 0xd9, 0x9a, 0xe0, 0x00, 0x00,
    ];

    #[test]
    fn lossy_webp_is_read_to_the_colours_that_pillow_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.webp");
        fs::write(&path, LOSSY_WEBP).unwrap();
        assert_eq!(image_size(&path).unwrap(), [8, 16]);
        let image = read_image(&path, &Fit { size: [8, 16], channels: 3, background: WHITE }).unwrap();
        for (x, expected) in [(2, [203u8, 39, 63]), (13, [28, 122, 218])] {
            for (c, expected) in expected.into_iter().enumerate() {
                let found = image[[c, 4, x]];
                // Decoders differ in how they round colour conversion.
                assert!(found.abs_diff(expected) <= 2, "{x} {c}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn a_picture_is_turned_as_its_camera_was_held() {
        // Stored with a bright left and a dark right half. Where the bright half appears under Exif's eight
        // orientations, by their definition.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.jpg");
        let stored = GrayImage::from_fn(16, 8, |x, _| Luma([if x < 8 { 200 } else { 40 }]));
        stored.save(&path).unwrap();
        let plain = fs::read(&path).unwrap();
        for (orientation, bright, size) in [
            (1u8, "left", [8, 16]),
            (2, "right", [8, 16]),
            (3, "right", [8, 16]),
            (4, "left", [8, 16]),
            (5, "top", [16, 8]),
            (6, "top", [16, 8]),
            (7, "bottom", [16, 8]),
            (8, "bottom", [16, 8]),
        ] {
            // An APP1 segment with one big-endian TIFF entry, tag 0x112, directly after the start of the image.
            let mut bytes = plain[..2].to_vec();
            bytes.extend(b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0");
            bytes.extend([orientation, 0, 0, 0, 0, 0, 0]);
            bytes.extend(&plain[2..]);
            fs::write(&path, bytes).unwrap();
            assert_eq!(image_size(&path).unwrap(), size, "{orientation}");
            let image = read_image(&path, &Fit { size, channels: 1, background: WHITE }).unwrap();
            let [h, w] = size;
            let (y, x) = match bright {
                "left" => (h / 2, 1),
                "right" => (h / 2, w - 2),
                "top" => (1, w / 2),
                _ => (h - 2, w / 2),
            };
            let (here, opposite) = (image[[0, y, x]], image[[0, h - 1 - y, w - 1 - x]]);
            assert!(here > 190 && opposite < 50, "{orientation}: {here} {opposite}");
        }
    }

    #[test]
    fn jpeg_is_read_by_content_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.png");
        GrayImage::from_pixel(16, 8, Luma([100])).save_with_format(&path, ::image::ImageFormat::Jpeg).unwrap();
        let image = read_image(&path, &GRAY).unwrap();
        assert!(image.iter().all(|v| v.abs_diff(100) <= 2));
    }
}
