//! PNG files, with the options that produced them in text chunks.

use std::io::Cursor;
use std::path::Path;

use super::{Picture, blend};
use crate::error::{Error, Result};
use crate::io::files;

/// Maximum size in bytes of a decoded picture or of its file.
const MAX_BYTES: usize = 1 << 29;
/// Most bytes of a compressed text.
const MAX_TEXT: usize = 1 << 20;

/// A picture and the texts in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels in 8 bits, with transparent parts on white.
    pub picture: Picture,
    /// Keywords and texts, in the order of the file within each kind of chunk.
    pub text: Vec<(String, String)>,
}

/// Encodes `picture` as a PNG file with `text` as (keyword, text) chunks: Latin-1 (tEXt) where ASCII suffices, else
/// UTF-8 (iTXt).
///
/// # Errors
/// A keyword is not 1 to 79 printable ASCII characters or starts or ends with a space, or a text contains NUL.
pub fn encode_png(picture: &Picture, text: &[(&str, &str)]) -> Result<Vec<u8>> {
    for (keyword, value) in text {
        let plain = keyword.bytes().all(|b| (0x20..0x7f).contains(&b)) && keyword.trim() == *keyword;
        if !plain || !(1..=79).contains(&keyword.len()) || value.contains('\0') {
            return Err(Error::argument(format!(
                "PNG text {keyword:?}: expected a keyword of 1 to 79 printable ASCII characters and a text without NUL"
            )));
        }
    }
    encode(picture, text).map_err(|e| Error::argument(format!("cannot encode as PNG: {e}")).caused_by(e))
}

fn encode(picture: &Picture, text: &[(&str, &str)]) -> Result<Vec<u8>, ::png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, picture.width() as u32, picture.height() as u32);
    encoder.set_color(if picture.channels() == 1 { ::png::ColorType::Grayscale } else { ::png::ColorType::Rgb });
    encoder.set_depth(::png::BitDepth::Eight);
    for &(keyword, value) in text {
        if value.is_ascii() {
            encoder.add_text_chunk(keyword.to_owned(), value.to_owned())?;
        } else {
            encoder.add_itxt_chunk(keyword.to_owned(), value.to_owned())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.data())?;
    writer.finish()?;
    Ok(bytes)
}

/// Decodes a PNG file of any kind to 8 bits, gray or colour.
///
/// # Errors
/// The bytes are not a PNG, are truncated or damaged, or the picture exceeds 512 MiB.
pub fn decode_png(bytes: &[u8]) -> Result<Decoded> {
    let fail = |e: ::png::DecodingError| Error::data(format!("unreadable PNG: {e}")).caused_by(e);
    let mut decoder = ::png::Decoder::new_with_limits(Cursor::new(bytes), ::png::Limits { bytes: MAX_BYTES });
    decoder.set_transformations(::png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(fail)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let size = reader.output_buffer_size().filter(|&size| size <= MAX_BYTES);
    let size = size.ok_or_else(|| Error::data(format!("{width}×{height} pixels exceed {MAX_BYTES} bytes")))?;
    let mut data = vec![0; size];
    let frame = reader.next_frame(&mut data).map_err(fail)?;
    data.truncate(frame.buffer_size());
    // Chunks may follow the pixels, and a file without its end chunk is truncated.
    reader.finish().map_err(fail)?;
    let info = reader.info();
    let mut text = Vec::new();
    for chunk in &info.uncompressed_latin1_text {
        text.push((chunk.keyword.clone(), chunk.text.clone()));
    }
    // A small chunk can hold a text of any length. Those that are too long or damaged are left out: the pixels are whole.
    for mut chunk in info.compressed_latin1_text.iter().cloned() {
        if chunk.decompress_text_with_limit(MAX_TEXT).is_ok() {
            text.push((chunk.keyword.clone(), chunk.get_text().map_err(fail)?));
        }
    }
    for mut chunk in info.utf8_text.iter().cloned() {
        if chunk.decompress_text_with_limit(MAX_TEXT).is_ok() {
            text.push((chunk.keyword.clone(), chunk.get_text().map_err(fail)?));
        }
    }
    let over_white = |c: u8, alpha: u8| blend(c, alpha, 255);
    let (channels, data) = match frame.color_type {
        ::png::ColorType::Grayscale => (1, data),
        ::png::ColorType::Rgb => (3, data),
        ::png::ColorType::GrayscaleAlpha => (1, data.chunks_exact(2).map(|p| over_white(p[0], p[1])).collect()),
        ::png::ColorType::Rgba => {
            (3, data.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]].map(|c| over_white(c, p[3]))).collect())
        }
        other => return Err(Error::unsupported(format!("unsupported PNG colour type {other:?}"))),
    };
    let picture = Picture::new(width, height, channels, data).map_err(|e| Error::data(e.message()))?;
    Ok(Decoded { picture, text })
}

/// Keywords and texts as [`encode_png`] and [`write_png`] take them.
pub fn text_chunks(texts: &[(String, String)]) -> Vec<(&str, &str)> {
    texts.iter().map(|(keyword, text)| (keyword.as_str(), text.as_str())).collect()
}

/// Writes a picture as a PNG file, atomically; see [`encode_png`].
///
/// # Errors
/// As [`encode_png`] and [`files::write_atomically`].
pub fn write_png(path: &Path, picture: &Picture, text: &[(&str, &str)]) -> Result<()> {
    files::write_bytes(path, &encode_png(picture, text).map_err(|e| e.in_file(path))?)
}

/// Reads a PNG file; see [`decode_png`].
///
/// # Errors
/// As [`decode_png`]; also if the file is missing.
pub fn read_png(path: &Path) -> Result<Decoded> {
    decode_png(&files::read(path, MAX_BYTES as u64)?).map_err(|e| e.in_file(path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    fn picture(width: usize, height: usize, channels: usize, first: u8) -> Picture {
        let data = (0..width * height * channels).map(|i| first.wrapping_add((i * i) as u8)).collect();
        Picture::new(width, height, channels, data).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pixels_and_texts_come_back(
            width in 1usize..20, height in 1usize..20, colour: bool, first: u8, value in "[^\0]{0,40}", key in "[a-z_]{1,79}",
        ) {
            let picture = picture(width, height, if colour { 3 } else { 1 }, first);
            let decoded = decode_png(&encode_png(&picture, &[(&key, &value), ("seed", "7")]).unwrap()).unwrap();
            prop_assert_eq!(&decoded.picture, &picture);
            prop_assert!(decoded.text.contains(&(key, value)));
            prop_assert!(decoded.text.contains(&("seed".into(), "7".into())));
        }
    }

    #[test]
    fn a_png_cut_anywhere_is_an_error() {
        let bytes = encode_png(&picture(5, 4, 3, 1), &[("eta", "0"), ("method", "η = 0")]).unwrap();
        assert!(decode_png(&bytes).is_ok());
        for end in 0..bytes.len() {
            let error = decode_png(&bytes[..end]).err().unwrap_or_else(|| panic!("cut at {end} of {}", bytes.len()));
            assert_eq!(error.kind(), Kind::InvalidData);
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_left_out() {
        let texts = |length: usize| {
            let mut bytes = Vec::new();
            let mut encoder = ::png::Encoder::new(&mut bytes, 1, 1);
            let long = "a".repeat(length);
            encoder.add_ztxt_chunk("latin".to_owned(), long.clone()).unwrap();
            encoder.add_text_chunk("short".to_owned(), "b".to_owned()).unwrap();
            encoder.write_header().unwrap().write_image_data(&[7]).unwrap();
            assert!(bytes.len() < 1 << 16, "{}", bytes.len());
            decode_png(&bytes).unwrap().text.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(texts(1000), ["short", "latin"]);
        assert_eq!(texts(4 << 20), ["short"]);
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused() {
        let mut bytes = encode_png(&picture(5, 4, 3, 1), &[]).unwrap();
        bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        assert_eq!(decode_png(&bytes).unwrap_err().kind(), Kind::InvalidData);
    }

    #[test]
    fn other_kinds_of_png_become_eight_bits_on_white() {
        let encode = |color, depth, data: &[u8]| {
            let mut bytes = Vec::new();
            let mut encoder = ::png::Encoder::new(&mut bytes, 2, 1);
            encoder.set_color(color);
            encoder.set_depth(depth);
            encoder.write_header().unwrap().write_image_data(data).unwrap();
            decode_png(&bytes).unwrap().picture
        };
        use ::png::{BitDepth, ColorType};
        assert_eq!(encode(ColorType::Grayscale, BitDepth::One, &[0b0100_0000]).data(), [0, 255]);
        assert_eq!(encode(ColorType::Grayscale, BitDepth::Sixteen, &[0x12, 0, 0xff, 0xff]).data(), [0x12, 0xff]);
        // (100·128 + 255·127)/255 = 177.2
        assert_eq!(encode(ColorType::GrayscaleAlpha, BitDepth::Eight, &[100, 128, 100, 0]).data(), [177, 255]);
        let rgba = encode(ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 255, 1, 2, 3, 0]);
        assert_eq!((rgba.channels(), rgba.data()), (3, &[1, 2, 3, 255, 255, 255][..]));
    }

    #[test]
    fn keywords_a_png_cannot_hold_are_refused() {
        for keyword in ["", " x", "η", &"k".repeat(80), "a\0b"] {
            assert!(encode_png(&picture(1, 1, 1, 0), &[(keyword, "v")]).is_err(), "{keyword:?}");
        }
        assert!(encode_png(&picture(1, 1, 1, 0), &[("k", "a\0b")]).is_err());
    }

    #[test]
    fn a_file_is_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        write_png(&path, &picture(3, 2, 1, 5), &[("a", "b")]).unwrap();
        assert_eq!(read_png(&path).unwrap().picture, picture(3, 2, 1, 5));
        std::fs::write(&path, b"no").unwrap();
        assert_eq!(read_png(&path).unwrap_err().path(), Some(path.as_path()));
    }
}
