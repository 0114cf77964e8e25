//! The tensors of a saved object.

use std::collections::HashMap;

use super::super::pickle::{Node, Pickle, Tensor, Value};
use crate::error::{Error, Result};

/// Maximum length of the path to a tensor, in bytes.
const MAX_NAME: usize = 1024;
/// Maximum number of tensors, and of bytes of all paths: one key may occur in many of them.
const MAX_TENSORS: usize = 100_000;
const MAX_NAMES: usize = 32 << 20;
/// Maximum nesting of dictionaries, and of the dictionaries visited.
const MAX_DEPTH: usize = 8;
const MAX_VISITS: usize = 1_000_000;

/// The tensors of a saved object, each under the keys that lead to it (`ema.module.conv_in.weight`), in the file's order.
#[derive(Debug, Default)]
pub(crate) struct Saved<'p> {
    pub names: Vec<String>,
    pub tensors: Vec<&'p Tensor>,
    /// Moving averages without names (`shadow_params`).
    pub lists: Vec<Vec<&'p Tensor>>,
    /// Whether the object is the list [model, optimizer, epoch, step, moving average] of the paper's authors. Its
    /// parts become `model` and `ema`.
    pub is_list: bool,
    places: HashMap<String, usize>,
    bytes: usize,
    visits: usize,
}

impl<'p> Saved<'p> {
    /// Walks through the dictionaries of the saved object. Ignores everything else, such as an optimiser's state, whose
    /// keys are numbers.
    pub fn of(pickle: &'p Pickle) -> Result<Self> {
        let mut saved = Self::default();
        let Some(parts) = pickle.sequence(pickle.root) else {
            saved.walk(pickle, pickle.root, "", 0)?;
            return Ok(saved);
        };
        saved.is_list = true;
        if let Some(&model) = parts.first() {
            saved.walk(pickle, model, "model", 0)?;
        }
        let model = saved.names.len();
        for &part in parts.iter().take(16).skip(2) {
            if saved.names.len() == model {
                saved.walk(pickle, part, "ema", 0)?;
            }
        }
        Ok(saved)
    }

    fn walk(&mut self, pickle: &'p Pickle, value: Value, path: &str, depth: usize) -> Result<()> {
        for &(key, value) in pickle.dict(value).unwrap_or_default() {
            self.visits += 1;
            if self.visits > MAX_VISITS {
                return Err(Error::data(format!("more than {MAX_VISITS} entries of dictionaries")));
            }
            let (Some(key), Some(node)) = (pickle.str(key), pickle.node(value)) else { continue };
            let name = || {
                let len = path.len() + 1 + key.len();
                if len > MAX_NAME {
                    return Err(Error::data(format!("a tensor name has {len} bytes; expected at most {MAX_NAME}")));
                }
                Ok(if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") })
            };
            match node {
                Node::Tensor(tensor) => self.add(name()?, tensor)?,
                Node::Dict(_) if depth < MAX_DEPTH => self.walk(pickle, value, &name()?, depth + 1)?,
                Node::Sequence(items) if key == "shadow_params" && items.len() <= MAX_TENSORS => {
                    let tensor = |item: &Value| match pickle.node(*item) {
                        Some(Node::Tensor(tensor)) => Some(tensor),
                        _ => None,
                    };
                    if self.lists.len() < 4 {
                        self.lists.extend(items.iter().map(tensor).collect::<Option<Vec<_>>>());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String, tensor: &'p Tensor) -> Result<()> {
        // Of equal keys, the last counts.
        if let Some(&place) = self.places.get(&name) {
            self.tensors[place] = tensor;
            return Ok(());
        }
        self.bytes += name.len();
        if self.names.len() == MAX_TENSORS || self.bytes > MAX_NAMES {
            return Err(Error::data(format!("more than {MAX_TENSORS} tensors, or {MAX_NAMES} bytes of names")));
        }
        self.places.insert(name.clone(), self.names.len());
        self.names.push(name);
        self.tensors.push(tensor);
        Ok(())
    }
}
