//! Conversion of layer shapes and errors to and from the kernels' types.

use skipstone_gpu::{attention, conv, elementwise, norm};

use crate::error::{Error, Kind};
use crate::unet::Activation;
use crate::unet::shapes::{Attention, Convolution, Normalisation};

impl From<Convolution> for conv::Shape {
    fn from(shape: Convolution) -> Self {
        let Convolution { c_in, c_out, input, kernel, stride, pad_before, pad_after, upsample } = shape;
        Self { c_in, c_out, input, kernel, stride, pad_before, pad_after, upsample }
    }
}

impl From<Normalisation> for norm::Shape {
    fn from(Normalisation { channels, pixels, groups, eps, silu }: Normalisation) -> Self {
        Self { channels, pixels, groups, eps, silu }
    }
}

impl From<Attention> for attention::Shape {
    fn from(Attention { channels, heads, pixels }: Attention) -> Self {
        Self { channels, heads, pixels }
    }
}

impl From<Activation> for elementwise::Activation {
    fn from(kind: Activation) -> Self {
        match kind {
            Activation::Silu => Self::Silu,
            Activation::Gelu => Self::Gelu,
            Activation::Mish => Self::Mish,
            Activation::Relu => Self::Relu,
        }
    }
}

impl From<skipstone_gpu::Error> for Error {
    fn from(error: skipstone_gpu::Error) -> Self {
        use skipstone_gpu::Error as E;
        let remedy = match error {
            E::OutOfMemory | E::TooLarge(_) => {
                "; use smaller batches (in training a smaller train.shard), a smaller model or --device cpu"
            }
            E::Lost(_) => "; what was finished before is kept: start again, with --device cpu if it happens again",
            E::Unavailable(_) => "; see `skipstone devices`",
            E::Failed(_) => "",
        };
        Self::new(Kind::Device, format!("{error}{remedy}")).caused_by(error)
    }
}
