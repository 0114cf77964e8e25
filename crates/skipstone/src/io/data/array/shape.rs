//! Which dimension of an array of images is which.

use std::fmt;
use std::str::FromStr;

use super::DataOptions;
use crate::error::{Error, Result};
use crate::io::image::is_picture;

/// The order of an array's dimensions.
///
/// ```
/// use skipstone::io::data::ArrayLayout;
/// assert_eq!("nhwc".parse::<ArrayLayout>().unwrap(), ArrayLayout::Nhwc);
/// assert_eq!(ArrayLayout::Nchw.to_string(), "nchw");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArrayLayout {
    /// `[n, channels, height, width]`, as in PyTorch.
    Nchw,
    /// `[n, height, width, channels]`, as in TensorFlow and image files.
    Nhwc,
}

impl ArrayLayout {
    /// `[channels, height, width]` of the images in an array of this shape.
    fn image(self, [a, b, c]: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Nchw => [a, b, c],
            Self::Nhwc => [c, a, b],
        }
    }
}

impl fmt::Display for ArrayLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nchw => "nchw",
            Self::Nhwc => "nhwc",
        })
    }
}

impl FromStr for ArrayLayout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "nchw" => Ok(Self::Nchw),
            "nhwc" => Ok(Self::Nhwc),
            _ => Err(Error::argument(format!("layout \"{text}\": expected nchw or nhwc"))),
        }
    }
}

/// The images that an array holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub layout: ArrayLayout,
    pub n: usize,
    /// `[channels, height, width]`.
    pub shape: [usize; 3],
    /// What was taken for what, for the user.
    pub note: Option<String>,
}

impl Placed {
    /// Tells the layout from the wanted channels and size, or from a number of channels that images have.
    pub(super) fn of(shape: &[usize], options: &DataOptions) -> Result<Self> {
        let (n, inner) = match *shape {
            [n, h, w] => return Ok(Self { layout: ArrayLayout::Nchw, n, shape: [1, h, w], note: None }),
            [n, a, b, c] => (n, [a, b, c]),
            _ => {
                let expected = "[n, channels, height, width], [n, height, width, channels] or [n, height, width]";
                return Err(Error::data(format!("expected images {expected}, found {shape:?}")));
            }
        };
        let layout = match options.layout {
            Some(layout) => layout,
            None => told(inner, options).ok_or_else(|| {
                Error::argument(format!("{shape:?} fits both layouts; decide with --layout nchw or nhwc"))
            })?,
        };
        let note = format!("{shape:?} is read as {layout}");
        Ok(Self { layout, n, shape: layout.image(inner), note: Some(note) })
    }
}

/// The layout that fits better; `None` if both do equally and differ.
fn told(inner: [usize; 3], options: &DataOptions) -> Option<ArrayLayout> {
    let score = |layout: ArrayLayout| {
        let [c, h, w] = layout.image(inner);
        match (options.channels, options.size) {
            (channels, Some(size)) if size == [h, w] && channels.is_none_or(|wanted| wanted == c) => 4,
            (Some(wanted), _) if wanted == c => 3,
            _ if is_picture(c) => 2,
            // Without a wish, channels are the shortest dimension.
            (None, _) if c < h.min(w) => 1,
            _ => 0,
        }
    };
    let [nchw, nhwc] = [ArrayLayout::Nchw, ArrayLayout::Nhwc].map(score);
    match nchw.cmp(&nhwc) {
        std::cmp::Ordering::Greater => Some(ArrayLayout::Nchw),
        std::cmp::Ordering::Less => Some(ArrayLayout::Nhwc),
        // The same values in the same order.
        std::cmp::Ordering::Equal if inner == [1; 3] => Some(ArrayLayout::Nchw),
        std::cmp::Ordering::Equal if nchw == 0 => Some(ArrayLayout::Nchw),
        std::cmp::Ordering::Equal => None,
    }
}
