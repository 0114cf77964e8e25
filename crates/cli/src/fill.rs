//! `sample --inpaint`: which part of which picture is to be made.

use std::path::{Path, PathBuf};

use clap::Args;
use ndarray::Axis;
use skipstone::Error;
use skipstone::io::data::{Fit, WHITE, image_size, network_values, read_image};
use skipstone::sampling::inpaint::{Region, Resampling};
use skipstone::unet::Config;

use crate::failure::Usage;

/// Filling a part of a picture.
#[derive(Args, Debug)]
pub struct FillArguments {
    /// Fill a part of this picture, each image in its own way; needs --mask. With --eta 1 resampling works best
    #[arg(long, value_name = "IMAGE", requires = "mask")]
    inpaint: Option<PathBuf>,
    /// What to fill: white is filled, black is kept, of gray what is nearer; a picture of the same size
    #[arg(long, value_name = "MASK", requires = "inpaint")]
    mask: Option<PathBuf>,
    /// How often each stretch of the way is gone through (RePaint); 1 is the simple projection
    #[arg(long, value_name = "R", default_value_t = 5, requires = "inpaint")]
    resamples: usize,
    /// Steps in a stretch
    #[arg(long, value_name = "J", default_value_t = 5, requires = "inpaint")]
    jump: usize,
}

impl FillArguments {
    /// The picture and its mask.
    pub fn paths(&self) -> [Option<&Path>; 2] {
        [self.inpaint.as_deref(), self.mask.as_deref()]
    }

    /// Reads both pictures, brought to the size and channels of the model.
    pub fn read(&self, config: &Config) -> anyhow::Result<Option<(Region, Resampling)>> {
        let (Some(image), Some(mask)) = (&self.inpaint, &self.mask) else { return Ok(None) };
        if !matches!(config.in_channels, 1 | 3) {
            let message = format!("--inpaint: images of {} channels have no picture to fill", config.in_channels);
            return Err(Usage(message).into());
        }
        let ([h, w], [mask_h, mask_w]) = (image_size(image)?, image_size(mask)?);
        if [h, w] != [mask_h, mask_w] {
            // Each would be cropped in its own way, and the hole would lie elsewhere.
            let message =
                format!("{mask_w} × {mask_h} pixels, the picture to fill has {w} × {h}; give both the same size");
            return Err(Error::data(message).in_file(mask).into());
        }
        let fit = Fit { size: config.sample_size, channels: config.in_channels, background: WHITE };
        let image = network_values(&read_image(image, &fit)?);
        let gray = read_image(mask, &Fit { channels: 1, ..fit })?;
        let fill = gray.index_axis(Axis(0), 0).mapv(|value| value >= 128);
        let region = Region::new(image, fill).map_err(|error| error.in_file(mask))?;
        Ok(Some((region, Resampling { jump: self.jump, resamples: self.resamples })))
    }
}
