//! The layers of the classifier as a list.

use std::ops::Range;

use skipstone::unet::Layout;
use skipstone_kernels::{conv, norm};

/// Number of features.
pub(super) const FEATURES: usize = 128;
/// Number of classes.
pub(super) const CLASSES: usize = 10;
/// Groups of a normalisation.
const GROUPS: usize = 8;

/// The ranges of two parameters among all values.
pub(super) type Places = [Range<usize>; 2];

/// The operation before a convolution.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Before {
    /// None: the input is the image.
    Nothing,
    /// Group normalisation, with the ranges of γ and β, and SiLU.
    Norm(norm::Shape, Places),
    /// SiLU.
    Silu,
}

/// A convolution, with what comes before and after it.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub before: Before,
    pub conv: conv::Shape,
    /// The ranges of weights and bias.
    pub weights: Places,
    /// Whether 2×2 average pooling follows.
    pub pool: bool,
}

impl Stage {
    /// Height and width after the convolution and any pooling.
    pub fn output(&self) -> [usize; 2] {
        self.conv.output().map(|side| if self.pool { side / 2 } else { side })
    }

    /// Values of an image before and after pooling.
    pub fn sizes(&self) -> (usize, usize) {
        let [height, width] = self.output();
        (self.conv.output_pixels() * self.conv.c_out, height * width * self.conv.c_out)
    }
}

/// The parameters in order: for each stage, γ and β of any normalisation, then weights and bias.
pub(super) fn layout() -> Layout {
    build().1
}

/// The stages, from the image to the scores of the classes.
pub(super) fn stages() -> Vec<Stage> {
    build().0
}

fn build() -> (Vec<Stage>, Layout) {
    let layers = [
        ("conv1", 32, 3, 1, true),
        ("conv2", 64, 3, 1, false),
        ("conv3", 64, 3, 1, true),
        ("conv4", 48, 3, 1, false),
        ("features", FEATURES, 7, 0, false),
        ("classes", CLASSES, 1, 0, false),
    ];
    let mut layout = Layout::default();
    let mut pair = |name: &str, weight: Vec<usize>| {
        let bias = vec![weight[0]];
        [("weight", weight), ("bias", bias)].map(|(kind, shape)| {
            let index = layout.push(format!("{name}.{kind}"), shape).expect("a small shape");
            layout.specs()[index].range()
        })
    };
    let (mut side, mut c_in) = (28, 1);
    let mut stages = Vec::new();
    for (name, c_out, kernel, pad, pool) in layers {
        let before = match name {
            "conv1" => Before::Nothing,
            "classes" => Before::Silu,
            _ => {
                let shape = norm::Shape { channels: c_in, pixels: side * side, groups: GROUPS, eps: 1e-5, silu: true };
                Before::Norm(shape, pair(&format!("{name}.norm"), vec![c_in]))
            }
        };
        let conv = conv::Shape {
            c_in,
            c_out,
            input: [side, side],
            kernel,
            stride: 1,
            pad_before: pad,
            pad_after: pad,
            upsample: false,
        };
        let weights = pair(name, vec![c_out, c_in, kernel, kernel]);
        let stage = Stage { before, conv, weights, pool };
        (side, c_in) = (stage.output()[0], c_out);
        stages.push(stage);
    }
    (stages, layout)
}
