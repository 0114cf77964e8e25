//! All parameters of a network in one flat buffer, addressed by their checkpoint names.
//!
//! The optimiser, the EMA, gradient clipping and saving each make one pass over such a buffer.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Name, shape and position of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// The key in diffusers checkpoints, such as `down_blocks.0.resnets.1.conv1.weight`.
    pub name: String,
    /// The tensor's shape.
    pub shape: Vec<usize>,
    /// First element in the flat buffer.
    pub offset: usize,
}

impl ParameterSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The range of its elements in the flat buffer.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// The parameters of a network, in the order in which it uses them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    specs: Vec<ParameterSpec>,
    by_name: HashMap<String, usize>,
    len: usize,
}

impl Layout {
    /// Adds a parameter with this name and shape. Returns its index in [`specs`](Self::specs).
    ///
    /// # Errors
    /// The shape has more elements than memory could hold.
    ///
    /// # Panics
    /// A parameter called `name` already exists.
    pub fn push(&mut self, name: String, shape: Vec<usize>) -> Result<usize> {
        let size = shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .filter(|n| self.len.checked_add(*n).is_some_and(|total| total <= isize::MAX as usize / 64))
            .ok_or_else(|| Error::data(format!("{name}: shape {shape:?} is too large")))?;
        let index = self.specs.len();
        let before = self.by_name.insert(name.clone(), index);
        assert!(before.is_none(), "parameter {name} registered twice");
        self.specs.push(ParameterSpec { name, shape, offset: self.len });
        self.len += size;
        Ok(index)
    }

    /// All parameters, in order.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.specs
    }

    /// The parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&ParameterSpec> {
        self.by_name.get(name).map(|&i| &self.specs[i])
    }

    /// Total number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The values of a network's parameters.
#[derive(Clone, Debug)]
pub struct Parameters {
    layout: Arc<Layout>,
    data: Vec<f32>,
}

impl Parameters {
    /// Parameters with these values, in the order of the layout.
    ///
    /// # Errors
    /// The length of `data` is not that of the layout.
    pub fn new(layout: Arc<Layout>, data: Vec<f32>) -> Result<Self> {
        if data.len() != layout.len() {
            return Err(Error::data(format!("expected {} parameter values, found {}", layout.len(), data.len())));
        }
        Ok(Self { layout, data })
    }

    /// Parameters that are all zero.
    pub fn zeros(layout: Arc<Layout>) -> Self {
        let data = vec![0.0; layout.len()];
        Self { layout, data }
    }

    /// The layout of the parameters.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// All values, in the order of the layout.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All values, without the layout.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// All values, mutable.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The values of the parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.layout.get(name).map(|spec| &self.data[spec.range()])
    }

    /// Each parameter with its values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&ParameterSpec, &[f32])> {
        self.layout.specs().iter().map(|spec| (spec, &self.data[spec.range()]))
    }
}
