//! Feature networks: from images to vectors.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use ndarray::{Array2, Array4, ArrayView4};
use skipstone::error::{Error, Kind, Result};

use super::classifier::FashionCnn;

/// A network whose inner values describe an image.
pub trait FeatureNetwork {
    /// Its name in scores, files and messages, such as `fashion-cnn-128d (0a1b2c3d)`. Equal names mean equal weights.
    fn name(&self) -> &str;

    /// Length of a feature vector.
    fn dimensions(&self) -> usize;

    /// The feature vectors `[n, dimensions]` of [pictures](as_pictures) `[n, channels, height, width]`, values in −1..1. Row
    /// i depends only on image i.
    ///
    /// # Errors
    /// The network does not take images of this shape, or a feature is not finite.
    fn features(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>>;
}

/// The feature vectors of raw network values: [`as_pictures`], then [`FeatureNetwork::features`].
///
/// # Errors
/// A value is NaN or infinite, or the network refuses the images.
pub fn features(network: &dyn FeatureNetwork, images: ArrayView4<'_, f32>) -> Result<Array2<f32>> {
    let mut pictures = images.to_owned();
    as_pictures(&mut pictures)?;
    network.features(pictures.view())
}

/// Checks that a network takes images of this shape, `[channels, height, width]`, by showing it a gray one. Programs can
/// so fail before the work.
///
/// # Errors
/// The network refuses the image.
pub fn check_takes(network: &dyn FeatureNetwork, [channels, height, width]: [usize; 3]) -> Result<()> {
    network.features(Array4::zeros((1, channels, height, width)).view()).map(drop)
}

/// Brings raw network values to the values of image files: clamped to −1..1, with 256 levels.
///
/// Data sets consist of bytes. With finer values, a score would punish or reward what nobody can see. Images of a data
/// set stay the same to the bit.
///
/// # Errors
/// A value is NaN or infinite.
pub fn as_pictures(images: &mut Array4<f32>) -> Result<()> {
    if let Some(i) = images.outer_iter().position(|image| image.iter().any(|value| !value.is_finite())) {
        return Err(Error::new(Kind::NonFinite, format!("image {i} of the images to score is not finite")));
    }
    images.mapv_inplace(|x| {
        let byte = ((f64::from(x).clamp(-1.0, 1.0) + 1.0) * 127.5).round();
        (byte / 127.5 - 1.0) as f32
    });
    Ok(())
}

/// Images as rows of pixels, for [`nearest`](super::nearest) in pixel space: `[n, c·h·w]`.
pub fn pixels(images: ArrayView4<'_, f32>) -> Array2<f32> {
    let n = images.dim().0;
    let row = images.len() / n.max(1);
    let values = images.iter().copied().collect();
    Array2::from_shape_vec((n, row), values).expect("as many values as there were")
}

/// A feature network by its name on the command line.
///
/// ```
/// use skipstone_eval::FeatureSpec;
/// assert_eq!("fashion-cnn".parse::<FeatureSpec>().unwrap(), FeatureSpec::FashionCnn);
/// let onnx = FeatureSpec::Onnx { path: "nets/inception.onnx".into(), output: "pool3".into() };
/// assert_eq!("nets/inception.onnx:pool3".parse::<FeatureSpec>().unwrap(), onnx);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FeatureSpec {
    /// `fashion-cnn`: the built-in classifier of Fashion-MNIST.
    FashionCnn,
    /// `FILE.onnx:OUTPUT`: a value of an ONNX network.
    Onnx {
        /// The file.
        path: PathBuf,
        /// The value's name.
        output: String,
    },
}

impl FromStr for FeatureSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "fashion-cnn" {
            return Ok(Self::FashionCnn);
        }
        match text.rsplit_once(':') {
            Some((path, output)) if path.ends_with(".onnx") && !output.is_empty() => {
                Ok(Self::Onnx { path: path.into(), output: output.into() })
            }
            _ => Err(Error::argument(format!("features \"{text}\": expected fashion-cnn or FILE.onnx:OUTPUT"))),
        }
    }
}

impl fmt::Display for FeatureSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FashionCnn => f.write_str("fashion-cnn"),
            Self::Onnx { path, output } => write!(f, "{}:{output}", path.display()),
        }
    }
}

impl FeatureSpec {
    /// Opens the network. `fashion_cnn` holds the bytes of the built-in classifier, `skipstone_model::FASHION_CNN`.
    ///
    /// # Errors
    /// The file is missing or is not such a network.
    pub fn open(&self, fashion_cnn: &[u8]) -> Result<Box<dyn FeatureNetwork>> {
        match self {
            Self::FashionCnn => Ok(Box::new(FashionCnn::from_bytes(fashion_cnn)?)),
            #[cfg(feature = "onnx")]
            Self::Onnx { path, output } => Ok(Box::new(super::OnnxFeatures::open(path, output)?)),
            #[cfg(not(feature = "onnx"))]
            Self::Onnx { .. } => Err(Error::unsupported(format!("features {self}: this build was made without ONNX"))),
        }
    }
}
