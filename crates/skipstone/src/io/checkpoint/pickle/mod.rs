//! A pickle machine that knows tensors and containers, and can run nothing.
//!
//! Python's unpickler imports any name a file mentions and calls it. This one imports nothing: a call of one of the few
//! functions that `torch.save` needs is recognised by name and understood as data; a call of anything else gives an
//! opaque value. Values live in one arena and refer to each other by index, so that neither a cycle nor a nesting
//! of any depth can overflow the stack, and every limit is one number.

mod calls;
mod instructions;
mod machine;

use super::tensors::Dtype;
use crate::error::{Error, Result};
use machine::Machine;

/// Bytes of a name or storage key. They are copied, and a file may mention one long text a million times.
const MAX_NAME: usize = 1024;

/// Index of a [`Node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(u32);

/// A value: small ones themselves, the others by reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool,
    Int(i64),
    /// A number, object or call of no interest.
    Opaque,
    Node(Id),
}

/// What a value refers to.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Str(String),
    /// A list, tuple or set.
    Sequence(Vec<Value>),
    /// A dictionary in the order of insertion; of equal keys the last counts.
    Dict(Vec<(Value, Value)>),
    /// An importable name, which is never imported: module and name.
    Global(String, String),
    Storage(Storage),
    Tensor(Tensor),
}

/// A tensor's storage, kept outside the pickle.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Storage {
    pub key: String,
    pub dtype: Dtype,
    /// Elements the pickle claims; to be checked against the file.
    pub numel: u64,
    /// Where a view of another storage begins in it, in elements: torch before 0.4.
    pub offset: u64,
}

/// A strided view into a storage.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub storage: Id,
    pub offset: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The result: the root value and the arena it refers into.
#[derive(Debug)]
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    pub root: Value,
}

impl Pickle {
    /// Reads one pickle from the beginning of `bytes`; also the number of bytes it takes.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize)> {
        let mut machine = Machine::new(bytes);
        let root = machine
            .run()
            .map_err(|e| Error::new(e.kind(), format!("bad pickle at byte {}: {}", machine.at(), e.message())))?;
        let used = machine.at();
        Ok((Self { nodes: machine.into_nodes(), root }, used))
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

    /// The value of a dictionary's string key.
    pub fn get(&self, dict: Value, key: &str) -> Option<Value> {
        self.dict(dict)?.iter().rev().find(|(k, _)| self.str(*k) == Some(key)).map(|&(_, v)| v)
    }

    pub fn storage(&self, id: Id) -> Option<&Storage> {
        match &self.nodes[id.0 as usize] {
            Node::Storage(storage) => Some(storage),
            _ => None,
        }
    }

    /// Every storage mentioned anywhere.
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
