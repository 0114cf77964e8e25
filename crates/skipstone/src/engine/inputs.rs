//! The inputs of a network, for every engine: checked images, times and classes, and the rows of vectors that the blocks
//! read.

use std::collections::HashMap;
use std::ops::Range;

use ndarray::Array4;

use crate::error::{Error, Result};
use crate::math::schedule::Time;
use crate::sampling::denoiser;
use crate::unet::graph::{Graph, Op, Row, ValueId};
use crate::unet::{Config, TimeEmbedding};

/// What identifies a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConditioningKey {
    /// The bits of the time index as f32, as in training. The index may be fractional.
    pub time: u32,
    /// The class, for a class-conditional network.
    pub class: Option<usize>,
}

/// The position of each vector that blocks read within a row.
#[derive(Clone, Debug)]
pub(crate) struct RowLayout {
    places: HashMap<ValueId, Range<usize>>,
    len: usize,
}

impl RowLayout {
    /// Collects every vector that an image operation or a normalisation reads.
    pub fn new(graph: &Graph) -> Self {
        let mut layout = Self { places: HashMap::new(), len: 0 };
        let norms = graph.norms.iter().filter_map(|norm| norm.scale_shift);
        let convs = graph.ops.iter().filter_map(|op| match op {
            Op::Conv { vector, .. } => *vector,
            _ => None,
        });
        for value in convs.chain(norms) {
            let len = graph.value(value).len();
            layout.places.insert(value, layout.len..layout.len + len);
            layout.len += len;
        }
        layout
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The position of a vector within a row; `None` if no block reads it.
    pub fn place(&self, value: ValueId) -> Option<Range<usize>> {
        self.places.get(&value).cloned()
    }

    /// Every vector that blocks read, with its position.
    pub fn places(&self) -> impl Iterator<Item = (ValueId, &Range<usize>)> {
        self.places.iter().map(|(value, place)| (*value, place))
    }
}

/// The sinusoidal time embedding (Vaswani et al., arXiv 1706.03762): sines, then cosines, of a time index at
/// geometrically spaced frequencies. A class number may stand in for the time. Scaled times and angles are rounded to f32, as
/// in training.
pub(crate) fn time_embedding(config: &Config, time: f32, out: &mut [f32]) {
    let half = out.len() / 2;
    let time = time * config.time_scale as f32;
    for i in 0..half {
        let angle = f64::from(time * config.frequency(i, half));
        let (sin, cos) = (libm::sin(angle) as f32, libm::cos(angle) as f32);
        let (first, second) = if config.flip_sin_to_cos { (cos, sin) } else { (sin, cos) };
        out[i] = first;
        out[half + i] = second;
    }
}

/// Derives a separate key for the mask of each dropout site.
pub(crate) fn site_keys(keys: &[u64], site: u32) -> Vec<u64> {
    keys.iter().map(|key| key.wrapping_add(u64::from(site).wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect()
}

/// The checked condition of each image.
pub(crate) fn conditions(config: &Config, times: &[Time], classes: Option<&[usize]>) -> Result<Vec<ConditioningKey>> {
    let times = time_indices(config, times)?;
    Ok(times.iter().enumerate().map(|(i, &time)| ConditioningKey { time, class: classes.map(|c| c[i]) }).collect())
}

/// Checks images and classes against a config. Returns the number of images.
pub(crate) fn check(config: &Config, x: &Array4<f32>, times: usize, classes: Option<&[usize]>) -> Result<usize> {
    let (n, c, h, w) = x.dim();
    let [height, width] = config.sample_size;
    if (c, h, w) != (config.in_channels, height, width) {
        return Err(Error::argument(format!(
            "images: the network takes [{}, {height}, {width}], found [{c}, {h}, {w}]",
            config.in_channels
        )));
    }
    if times != n {
        return Err(Error::argument(format!("expected {n} times, one per image, found {times}")));
    }
    match (classes, config.num_class_embeds) {
        (None, None) => {}
        (None, Some(k)) => {
            return Err(Error::argument(format!("the network is class-conditional: give one of its {k} classes")));
        }
        (Some(_), None) => return Err(Error::argument("the network is unconditional and takes no class")),
        (Some(classes), Some(k)) => {
            if classes.len() != n {
                return Err(Error::argument(format!("expected {n} classes, one per image, found {}", classes.len())));
            }
            if let Some(class) = classes.iter().find(|c| **c >= k) {
                return Err(Error::argument(format!("class: expected 0 to {}, found {class}", k - 1)));
            }
        }
    }
    Ok(n)
}

/// Every pair of these timesteps and the conditions' classes, each class once.
///
/// # Errors
/// As [`time_indices`] and [`denoiser::classes`].
pub(crate) fn every_condition(
    config: &Config,
    times: &[Time],
    conditions: &[denoiser::Condition],
) -> Result<Vec<ConditioningKey>> {
    let times = time_indices(config, times)?;
    let classes = denoiser::classes(conditions, conditions.len().max(1), config.num_class_embeds)?;
    let mut classes: Vec<Option<usize>> = classes.map_or(vec![None], |classes| classes.into_iter().map(Some).collect());
    classes.sort_unstable();
    classes.dedup();
    Ok(classes.iter().flat_map(|&class| times.iter().map(move |&time| ConditioningKey { time, class })).collect())
}

/// The bits of the network's time indices.
pub(crate) fn time_indices(config: &Config, times: &[Time]) -> Result<Vec<u32>> {
    times
        .iter()
        .map(|t| {
            let index =
                t.index().ok_or_else(|| Error::argument("a network has no prediction for clean data (t = 0)"))?;
            if let TimeEmbedding::Learned { num_train_timesteps } = config.time_embedding
                && index.whole().is_none_or(|index| index as usize >= num_train_timesteps)
            {
                return Err(Error::argument(format!(
                    "time index {index}: the network's time table has the whole numbers 0 to {}",
                    num_train_timesteps - 1
                )));
            }
            Ok((index.value() as f32).to_bits())
        })
        .collect()
}

/// The row of a table that an image's condition selects.
pub(crate) fn embedding_row(row: Row, condition: &ConditioningKey) -> usize {
    match row {
        Row::Time => f32::from_bits(condition.time) as usize,
        Row::Class => class_of(condition),
    }
}

/// The class of an image of a class-conditional network.
pub(crate) fn class_of(condition: &ConditioningKey) -> usize {
    condition.class.expect("classes are checked before")
}
