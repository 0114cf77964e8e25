//! The pictures of a cell: its first images, and its images nearest to training images.

use std::path::{Path, PathBuf};

use ndarray::{Array4, Axis, Slice, concatenate};
use skipstone::error::Result;
use skipstone::io::files;
use skipstone::io::image::{Layout, grid, shown_channels, write_png};

use super::reference::{RealImages, network_values};
use super::row::Row;
use crate::Nearest;

/// Most columns of pixels of a grid of samples, if the images are small enough.
const WIDTH: usize = 200;
/// Number of pairs of samples and training images.
const PAIRS: usize = 8;

fn columns([_, _, width]: [usize; 3]) -> usize {
    (WIDTH / (width + 2)).clamp(2, 6)
}

/// Number of images in the grid of a cell.
pub(super) fn count(shape: [usize; 3]) -> usize {
    columns(shape).pow(2)
}

/// The path of the grid of a cell's first images.
pub(super) fn samples(folder: &Path, row: &Row) -> PathBuf {
    folder.join(format!("{}.png", row.name))
}

/// The path of the picture of the samples nearest to training images, above those images.
pub(super) fn nearest(folder: &Path, row: &Row) -> PathBuf {
    folder.join(format!("{}-nearest.png", row.name))
}

/// Whether that picture exists.
pub(super) fn has_nearest(folder: &Path, row: &Row) -> bool {
    nearest(folder, row).is_file()
}

pub(super) fn write_samples(folder: &Path, row: &Row, images: &Array4<u8>) -> Result<()> {
    let (_, c, h, w) = images.dim();
    write(folder, &samples(folder, row), row, images, columns([c, h, w]))
}

/// `images` holds the samples whose neighbours `found` has.
pub(super) fn write_nearest(
    folder: &Path,
    row: &Row,
    images: &Array4<u8>,
    found: &Nearest,
    real: &RealImages,
) -> Result<()> {
    let order: Vec<usize> = found.order().into_iter().take(PAIRS).collect();
    let theirs: Vec<usize> = order.iter().map(|&i| found.indices[i]).collect();
    let pairs = [images.select(Axis(0), &order), real.seen().select(Axis(0), &theirs)];
    let both = concatenate(Axis(0), &pairs.each_ref().map(|images| images.view())).expect("images of one shape");
    write(folder, &nearest(folder, row), row, &both, order.len())
}

fn write(folder: &Path, path: &Path, row: &Row, images: &Array4<u8>, columns: usize) -> Result<()> {
    files::create_dir(folder)?;
    let texts: Vec<(&str, String)> =
        row.options.iter().map(|(name, value)| (name.as_str(), value.to_string())).collect();
    let mut texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
    texts.push(("Software", &row.program));
    let channels = images.dim().1;
    let shown = shown_channels(channels);
    let note = format!("first {shown} of {channels}");
    if shown < channels {
        texts.push(("channels", &note));
    }
    let images = images.slice_axis(Axis(1), Slice::from(..shown));
    write_png(path, &grid(&network_values(images), columns, &Layout::default())?, &texts)
}
