//! `sample --inpaint`: the image to fill and its mask.

use std::path::{Path, PathBuf};

use clap::Args;
use ndarray::Axis;
use skipstone::Error;
use skipstone::io::data::{Fit, WHITE, image_size, network_values, read_image};
use skipstone::io::image::is_picture;
use skipstone::sampling::inpaint::{Region, Resampling};
use skipstone::unet::Config;

use crate::failure::Usage;

/// Arguments of inpainting.
#[derive(Args, Debug)]
pub struct FillArguments {
    /// Inpaint: fill part of this image, differently in each sample; needs --mask and works best with --eta 1
    #[arg(long, value_name = "IMAGE", requires = "mask")]
    inpaint: Option<PathBuf>,
    /// What to fill: white is filled, black is kept, gray counts as the nearer of the two; same size as the image
    #[arg(long, value_name = "MASK", requires = "inpaint")]
    mask: Option<PathBuf>,
    /// How often each stretch of steps is sampled (RePaint); 1 is plain projection without resampling
    #[arg(long, value_name = "R", default_value_t = 5, requires = "inpaint")]
    resamples: usize,
    /// Steps in a stretch (RePaint)
    #[arg(long, value_name = "J", default_value_t = 5, requires = "inpaint")]
    jump: usize,
}

impl FillArguments {
    /// Paths of the image and its mask.
    pub fn paths(&self) -> [Option<&Path>; 2] {
        [self.inpaint.as_deref(), self.mask.as_deref()]
    }

    /// Reads the image and the mask at the model's size and channels.
    pub fn read(&self, config: &Config) -> anyhow::Result<Option<(Region, Resampling)>> {
        let (Some(image), Some(mask)) = (&self.inpaint, &self.mask) else { return Ok(None) };
        if !is_picture(config.in_channels) {
            let message = format!(
                "--inpaint: the model's images have {} channels; only 1 or 3 can be read from an image file",
                config.in_channels
            );
            return Err(Usage(message).into());
        }
        let ([h, w], [mask_h, mask_w]) = (image_size(image)?, image_size(mask)?);
        if [h, w] != [mask_h, mask_w] {
            // The two would be cropped differently, which would move the hole.
            let message = format!(
                "{mask_w} × {mask_h} pixels, but the image to fill has {w} × {h}; both must have the same size"
            );
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
