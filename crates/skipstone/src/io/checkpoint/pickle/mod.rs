//! A pickle machine that understands tensors and containers and cannot execute code.
//!
//! Python's unpickler imports and calls any name in a file. This machine imports nothing. It recognises the few
//! functions that `torch.save` needs by name and interprets their calls as data; any other call gives an opaque value.
//! Values live in one arena and refer to each other by index, so neither cycles nor deep nesting can overflow the call
//! stack, and every limit is a single number.

mod calls;
mod instructions;
mod machine;

use super::tensors::Dtype;
use crate::error::{Error, Result};
use machine::Machine;

/// Maximum length of a name or storage key in bytes. They are copied, and a file may refer to one a million times.
const MAX_NAME: usize = 1024;

/// The index of a [`Node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(u32);

/// A value: small ones directly, others by reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool,
    Int(i64),
    /// A number, object or call that is not needed.
    Opaque,
    Node(Id),
}

/// The target of a reference.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Str(String),
    /// A list, tuple or set.
    Sequence(Vec<Value>),
    /// A dictionary in insertion order. Of equal keys, the last counts.
    Dict(Vec<(Value, Value)>),
    /// An importable name (module and name), which is never imported.
    Global(String, String),
    Storage(Storage),
    Tensor(Tensor),
}

/// A tensor's storage, which lies outside the pickle.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Storage {
    pub key: String,
    pub dtype: Dtype,
    /// Number of elements according to the pickle; must be checked against the file.
    pub numel: u64,
    /// First element, if this is a view of another storage (torch before 0.4).
    pub offset: u64,
}

/// A strided view into a storage.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub storage: Id,
    pub offset: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
    /// The type of its numbers, where that of the storage does not say it.
    pub dtype: Option<Dtype>,
}

/// The result: the root value and its arena.
#[derive(Debug)]
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    pub root: Value,
}

impl Pickle {
    /// Parses one pickle from the start of `bytes`. Also returns its length in bytes.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize)> {
        let mut machine = Machine::new(bytes);
        let root = machine.run().map_err(|e| e.within(format!("bad pickle at byte {}", machine.at())))?;
        let used = machine.at();
        Ok((Self { root, ..machine.pickle }, used))
    }

    pub fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(id) => Some(&self.nodes[id.0 as usize]),
            _ => None,
        }
    }

    pub fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.node(value)? {
            Node::Dict(items) => Some(items),
            _ => None,
        }
    }

    pub fn sequence(&self, value: Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::Sequence(items) => Some(items),
            _ => None,
        }
    }

    pub fn str(&self, value: Value) -> Option<&str> {
        match self.node(value)? {
            Node::Str(s) => Some(s),
            _ => None,
        }
    }

    pub fn storage(&self, id: Id) -> Option<&Storage> {
        match &self.nodes[id.0 as usize] {
            Node::Storage(storage) => Some(storage),
            _ => None,
        }
    }

    /// All storages in the pickle.
    pub fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.nodes.iter().filter_map(|n| match n {
            Node::Storage(storage) => Some(storage),
            _ => None,
        })
    }
}

fn bad(what: &str) -> Error {
    Error::data(what)
}

#[cfg(test)]
mod tests;
