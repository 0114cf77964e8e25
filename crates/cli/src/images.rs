//! Input images of a command: a tensor, an image file, a folder or a data set.

use std::path::Path;

use ndarray::{Array, Array4, Axis, Dimension, Slice, stack};
use skipstone::io::data::{DataOptions, DataSpec, Fit, Split, WHITE, network_values, read_image};
use skipstone::io::image::npy;
use skipstone::unet::Config;

use crate::failure::Usage;

/// The first `n` images, or all for `None`, as `[n, c, h, w]` with the model's c, h and w. `text` names FILE.npy with
/// raw network values, an image file, a folder of image files, or a data set (its test part).
pub fn read(text: &str, config: &Config, n: Option<usize>) -> anyhow::Result<Array4<f32>> {
    let ([h, w], c) = (config.sample_size, config.in_channels);
    if n == Some(0) {
        return Err(Usage("-n: expected at least 1 image, found 0".to_owned()).into());
    }
    let path = Path::new(text);
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) {
        return Ok(first(tensor(path, "images [n, channels, height, width]", config)?, n));
    }
    if !matches!(c, 1 | 3) {
        return Err(Usage(format!(
            "--images: the model's images have {c} channels; only 1 or 3 can be read from image files; give FILE.npy"
        ))
        .into());
    }
    if path.is_file() {
        return pictures(&[path], config);
    }
    let options = DataOptions { size: Some([h, w]), channels: Some(c), background: WHITE };
    let data = text.parse::<DataSpec>()?.load(Split::Test, &options)?;
    Ok(data.batch(0..n.unwrap_or(data.len()).min(data.len()))?)
}

/// The tensor in a file. Its last three dimensions must be those of the model's images and no dimension may be 0;
/// `what` describes the tensor in the error.
pub fn tensor<D: Dimension>(path: &Path, what: &str, config: &Config) -> anyhow::Result<Array<f32, D>> {
    let all: Array<f32, D> = npy::read(path)?;
    let ([h, w], c) = (config.sample_size, config.in_channels);
    if all.is_empty() || !all.shape().ends_with(&[c, h, w]) {
        let message = format!("expected {what} with at least one image [{c}, {h}, {w}], found {:?}", all.shape());
        return Err(skipstone::Error::data(message).in_file(path).into());
    }
    Ok(all)
}

/// These image files at the model's size and channels.
pub fn pictures(paths: &[impl AsRef<Path>], config: &Config) -> anyhow::Result<Array4<f32>> {
    let fit = Fit { size: config.sample_size, channels: config.in_channels, background: WHITE };
    let images = paths.iter().map(|path| read_image(path.as_ref(), &fit).map(|image| network_values(&image)));
    let images = images.collect::<Result<Vec<_>, _>>()?;
    Ok(stack(Axis(0), &images.iter().map(|image| image.view()).collect::<Vec<_>>())?)
}

fn first(all: Array4<f32>, n: Option<usize>) -> Array4<f32> {
    match n {
        Some(n) if n < all.dim().0 => all.slice_axis(Axis(0), Slice::from(..n)).to_owned(),
        _ => all,
    }
}
