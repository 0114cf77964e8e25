//! The layers of the classifier as a list.

use skipstone_kernels::conv;
use skipstone_kernels::norm;

use skipstone::unet::Layout;

/// Features of an image.
pub(super) const FEATURES: usize = 128;
/// Classes.
pub(super) const CLASSES: usize = 10;
/// Groups of a normalisation.
const GROUPS: usize = 8;

/// What happens to a layer's input first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Before {
    /// Nothing: it is the image.
    Nothing,
    /// Group normalisation and SiLU.
    Norm(norm::Shape),
    /// SiLU.
    Silu,
}

/// A convolution, with what comes before and after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    pub name: &'static str,
    pub before: Before,
    pub conv: conv::Shape,
    /// Whether means of 2×2 pixels follow.
    pub pool: bool,
}

impl Stage {
    /// Height and width after the convolution and, where there is one, the mean.
    pub fn output(&self) -> [usize; 2] {
        self.conv.output().map(|side| if self.pool { side / 2 } else { side })
    }

    /// Values of an image before and after the mean.
    pub fn sizes(&self) -> (usize, usize) {
        let [height, width] = self.output();
        (self.conv.output_pixels() * self.conv.c_out, height * width * self.conv.c_out)
    }
}

/// The stages, from the image to a score for each class.
pub(super) fn stages() -> Vec<Stage> {
    let layers = [
        ("conv1", 32, 3, 1, true),
        ("conv2", 64, 3, 1, false),
        ("conv3", 64, 3, 1, true),
        ("conv4", 48, 3, 1, false),
        ("features", FEATURES, 7, 0, false),
        ("classes", CLASSES, 1, 0, false),
    ];
    let (mut side, mut c_in) = (28, 1);
    let mut stages = Vec::new();
    for (name, c_out, kernel, pad, pool) in layers {
        let before = match name {
            "conv1" => Before::Nothing,
            "classes" => Before::Silu,
            _ => {
                Before::Norm(norm::Shape { channels: c_in, pixels: side * side, groups: GROUPS, eps: 1e-5, silu: true })
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
        let stage = Stage { name, before, conv, pool };
        (side, c_in) = (stage.output()[0], c_out);
        stages.push(stage);
    }
    stages
}

/// The parameters in order: for each stage γ and β of its normalisation, where there is one, weights and bias.
pub(super) fn layout() -> Layout {
    let mut layout = Layout::default();
    let mut push = |name: String, shape| layout.push(name, shape).expect("small shapes");
    for Stage { name, before, conv, .. } in stages() {
        if let Before::Norm(norm) = before {
            push(format!("{name}.norm.weight"), vec![norm.channels]);
            push(format!("{name}.norm.bias"), vec![norm.channels]);
        }
        push(format!("{name}.weight"), vec![conv.c_out, conv.c_in, conv.kernel, conv.kernel]);
        push(format!("{name}.bias"), vec![conv.c_out]);
    }
    layout
}
