//! Conversion of layer shapes to the kernels' types.

use skipstone_kernels::{activation, attention, conv, norm};

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

/// The kernel of an activation; `None` for SiLU, which is fused into other kernels.
pub(super) fn activation(kind: Activation) -> Option<activation::Activation> {
    match kind {
        Activation::Silu => None,
        Activation::Gelu => Some(activation::Activation::Gelu),
        Activation::Mish => Some(activation::Activation::Mish),
        Activation::Relu => Some(activation::Activation::Relu),
    }
}
