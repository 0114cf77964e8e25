//! Input images of a command: a tensor, an image file, a folder or a data set.

use std::path::Path;

use ndarray::{Array, Array4, Axis, Dimension, Slice, stack};
use skipstone::io::checkpoint::Model;
use skipstone::io::data::{DataSpec, Fit, Split, WHITE, network_values, read_image};
use skipstone::io::image::{is_picture, npy};
use skipstone::unet::Config;

use crate::dataset::{ArrayArguments, say_notes};
use crate::failure::{Usage, say};

/// The first `n` images, or all for `None`, as `[n, c, h, w]` with the model's c, h and w. `text` names an image file or a
/// data set (its test part). Floats in FILE.npy are raw network values, unless a flag says how to read them as data.
pub fn read(text: &str, model: &Model, n: Option<usize>, arrays: &ArrayArguments) -> anyhow::Result<Array4<f32>> {
    let config = &model.config;
    if n == Some(0) {
        return Err(Usage("-n: expected at least 1 image, found 0".to_owned()).into());
    }
    let data = text.parse::<DataSpec>()?;
    match &data {
        DataSpec::Npy(path) if !arrays.are_given() && npy::holds_floats(path)? => {
            if let Some(recorded) = model.recorded_range()? {
                say(format_args!(
                    "{text} is taken as raw network values; to read it as data, add --range {}",
                    recorded.range
                ));
            }
            return Ok(first(tensor(path, "images [n, channels, height, width]", config)?, n));
        }
        DataSpec::Npy(_) | DataSpec::Npz(..) => {}
        _ if !is_picture(config.in_channels) => {
            let message = "only 1 or 3 can be read from image files; give an array, FILE.npy or FILE.npz";
            let c = config.in_channels;
            return Err(Usage(format!("--images: the model's images have {c} channels; {message}")).into());
        }
        DataSpec::Folder(path) if path.is_file() => return pictures(&[path], config),
        _ => {}
    }
    let data = data.load(Split::Test, &arrays.options(model)?)?;
    say_notes(&data);
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
