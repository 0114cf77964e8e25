//! A pickle machine that knows tensors and containers, and can run nothing.
//!
//! Python's unpickler imports any name a file mentions and calls it. This one imports nothing: a call of one of the few
//! functions that `torch.save` needs is recognised by name and understood as data; a call of anything else gives an
//! opaque value. Values live in one arena and refer to each other by index, so that neither a cycle nor a nesting
//! of any depth can overflow the stack, and every limit is one number.

use std::collections::HashMap;

use super::tensors::Dtype;
use crate::error::{Error, Result};

/// Instructions of one pickle. The largest checkpoints of this family have some ten thousand.
const MAX_STEPS: usize = 8 << 20;
/// Dimensions of a tensor.
const MAX_DIMS: usize = 8;
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
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            steps: 0,
        };
        let root = machine
            .run()
            .map_err(|e| Error::new(e.kind(), format!("bad pickle at byte {}: {}", machine.at, e.message())))?;
        Ok((Self { nodes: machine.nodes, root }, machine.at))
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

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    steps: usize,
}

fn bad(what: &str) -> Error {
    Error::data(what)
}

fn global(module: &str, name: &str) -> Result<Node> {
    if module.len() + name.len() > MAX_NAME {
        return Err(bad("a name is too long"));
    }
    Ok(Node::Global(module.to_owned(), name.to_owned()))
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value> {
        loop {
            self.spend(1)?;
            let op = self.take(1)?[0];
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
    }

    /// Counts work that is not bounded by the bytes it takes.
    fn spend(&mut self, steps: usize) -> Result<()> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return Err(Error::unsupported(format!("more than {MAX_STEPS} instructions")));
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or_else(|| bad("it ends too early"))?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("N bytes were taken"))
    }

    fn counted(&mut self, n: u64) -> Result<&'a [u8]> {
        self.take(usize::try_from(n).map_err(|_| bad("a length is absurd"))?)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or_else(|| bad("it ends within a line"))?;
        self.at += n + 1;
        std::str::from_utf8(&rest[..n]).map_err(|_| bad("a line is not UTF-8"))
    }

    fn node(&mut self, node: Node) -> Value {
        // At most one node per instruction: the index fits.
        let id = Id(self.nodes.len() as u32);
        self.nodes.push(node);
        Value::Node(id)
    }

    fn push(&mut self, node: Node) {
        let value = self.node(node);
        self.stack.push(value);
    }

    fn text(&mut self, bytes: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(bytes).map_err(|_| bad("a text is not UTF-8"))?;
        self.push(Node::Str(text.to_owned()));
        Ok(())
    }

    /// A byte string of Python 2: names are ASCII, anything else is no name.
    fn byte_string(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Node::Str(text.to_owned())),
            Err(_) => self.stack.push(Value::Opaque),
        }
    }

    /// The lowest position that may be popped: what lies under a mark belongs to the container being built.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value> {
        if self.stack.len() <= self.floor() {
            return Err(bad("its stack is empty"));
        }
        self.stack.pop().ok_or_else(|| bad("its stack is empty"))
    }

    fn top(&self) -> Result<Value> {
        if self.stack.len() <= self.floor() {
            return Err(bad("its stack is empty"));
        }
        self.stack.last().copied().ok_or_else(|| bad("its stack is empty"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| bad("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    fn get(&mut self, key: u64) -> Result<()> {
        let value = *self.memo.get(&key).ok_or_else(|| bad("it refers to a value it never stored"))?;
        self.stack.push(value);
        Ok(())
    }

    fn put(&mut self, key: u64) -> Result<()> {
        let value = self.top()?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn get_mut(&mut self, value: Value) -> Option<&mut Node> {
        match value {
            Value::Node(id) => Some(&mut self.nodes[id.0 as usize]),
            _ => None,
        }
    }

    fn extend(&mut self, items: Vec<Value>) -> Result<()> {
        let target = self.top()?;
        match self.get_mut(target) {
            Some(Node::Sequence(list)) => list.extend(items),
            None if target == Value::Opaque => {}
            _ => return Err(bad("items are added to what is no list")),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Value]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(bad("a key has no value"));
        }
        let target = self.top()?;
        match self.get_mut(target) {
            Some(Node::Dict(dict)) => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            None if target == Value::Opaque => {}
            _ => return Err(bad("keys are set in what is no dictionary")),
        }
        Ok(())
    }

    fn long(&mut self, n: u64) -> Result<()> {
        let bytes = self.counted(n)?;
        let value = match bytes.len() {
            0 => Value::Int(0),
            n @ 1..=8 => {
                let sign = if bytes[n - 1] & 0x80 != 0 { 0xff } else { 0 };
                let mut wide = [sign; 8];
                wide[..n].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
            _ => Value::Opaque,
        };
        self.stack.push(value);
        Ok(())
    }

    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            // protocol and frames
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            // the stack
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // POP takes a mark where one is on top.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // the memo
            b'q' => {
                let key = self.take(1)?[0];
                self.put(u64::from(key))?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.put(u64::from(key))?;
            }
            b'p' => {
                let key = self.line()?.parse().map_err(|_| bad("a memo key is no number"))?;
                self.put(key)?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'h' => {
                let key = self.take(1)?[0];
                self.get(u64::from(key))?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.get(u64::from(key))?;
            }
            b'g' => {
                let key = self.line()?.parse().map_err(|_| bad("a memo key is no number"))?;
                self.get(key)?;
            }
            // numbers
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            b'K' => {
                let n = self.take(1)?[0];
                self.stack.push(Value::Int(n.into()));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let value = match line {
                    "00" | "01" if op == b'I' => Value::Bool,
                    _ => line.strip_suffix('L').unwrap_or(line).parse().map_or(Value::Opaque, Value::Int),
                };
                self.stack.push(value);
            }
            0x8a => {
                let n = self.take(1)?[0];
                self.long(n.into())?;
            }
            0x8b => {
                let n = u32::from_le_bytes(self.array()?);
                self.long(n.into())?;
            }
            b'F' => {
                self.line()?;
                self.stack.push(Value::Opaque);
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Opaque);
            }
            _ => self.step_text(op)?,
        }
        Ok(())
    }

    fn step_text(&mut self, op: u8) -> Result<()> {
        match op {
            b'X' => {
                let n = u32::from_le_bytes(self.array()?);
                let bytes = self.counted(n.into())?;
                self.text(bytes)?;
            }
            0x8c => {
                let n = self.take(1)?[0];
                let bytes = self.take(n.into())?;
                self.text(bytes)?;
            }
            0x8d => {
                let n = u64::from_le_bytes(self.array()?);
                let bytes = self.counted(n)?;
                self.text(bytes)?;
            }
            b'V' => {
                let line = self.line()?;
                self.text(line.as_bytes())?;
            }
            b'S' => {
                let line = self.line()?;
                let text = line.get(1..line.len().saturating_sub(1)).unwrap_or_default();
                self.byte_string(text.as_bytes());
            }
            b'T' => {
                let n = u32::from_le_bytes(self.array()?);
                let bytes = self.counted(n.into())?;
                self.byte_string(bytes);
            }
            b'U' => {
                let n = self.take(1)?[0];
                let bytes = self.take(n.into())?;
                self.byte_string(bytes);
            }
            // raw bytes: of no interest
            b'B' | b'C' | 0x8e | 0x96 => {
                let n = match op {
                    b'B' => u32::from_le_bytes(self.array()?).into(),
                    b'C' => self.take(1)?[0].into(),
                    _ => u64::from_le_bytes(self.array()?),
                };
                self.counted(n)?;
                self.stack.push(Value::Opaque);
            }
            _ => self.step_container(op)?,
        }
        Ok(())
    }

    fn step_container(&mut self, op: u8) -> Result<()> {
        match op {
            b']' | b')' | 0x8f => self.push(Node::Sequence(Vec::new())),
            b'l' | b't' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::Sequence(items));
            }
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                if self.stack.len() < self.floor() + n {
                    return Err(bad("its stack is empty"));
                }
                let items = self.stack.split_off(self.stack.len() - n);
                self.push(Node::Sequence(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Node::Dict(Vec::new()));
                self.insert(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.insert(&items)?;
            }
            _ => self.step_object(op)?,
        }
        Ok(())
    }

    fn step_object(&mut self, op: u8) -> Result<()> {
        match op {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(global(module, name)?);
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let node = match (self.as_str(module), self.as_str(name)) {
                    (Some(module), Some(name)) => global(module, name)?,
                    _ => return Err(bad("a name is not text")),
                };
                self.push(node);
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let value = self.reduce(function, arguments)?;
                self.stack.push(value);
            }
            0x92 => {
                let (_, _, _) = (self.pop()?, self.pop()?, self.pop()?);
                self.stack.push(Value::Opaque);
            }
            b'i' => {
                self.line()?;
                self.line()?;
                self.pop_mark()?;
                self.stack.push(Value::Opaque);
            }
            b'o' => {
                self.pop_mark()?;
                self.stack.push(Value::Opaque);
            }
            // BUILD sets attributes: a state dict's version numbers, an optimiser's settings.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.persistent(id)?;
                self.stack.push(value);
            }
            b'P' => {
                self.line()?;
                self.stack.push(Value::Opaque);
            }
            _ => return Err(bad(&format!("unknown instruction {op:#04x}"))),
        }
        Ok(())
    }

    fn peek(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(id) => Some(&self.nodes[id.0 as usize]),
            _ => None,
        }
    }

    fn as_str(&self, value: Value) -> Option<&str> {
        match self.peek(value)? {
            Node::Str(s) => Some(s),
            _ => None,
        }
    }

    fn as_sequence(&self, value: Value) -> Option<&[Value]> {
        match self.peek(value)? {
            Node::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// What a call means, for the few functions that are known; opaque for all others.
    fn reduce(&mut self, function: Value, arguments: Value) -> Result<Value> {
        let Some(Node::Global(module, name)) = self.peek(function) else { return Ok(Value::Opaque) };
        let (module, name) = (module.as_str(), name.as_str());
        let items = self.as_sequence(arguments).ok_or_else(|| bad("a call without arguments"))?;
        match (module, name) {
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
                let tensor = self.tensor(items)?;
                Ok(self.node(Node::Tensor(tensor)))
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                items.first().copied().ok_or_else(|| bad("a parameter without a tensor"))
            }
            ("torch", "Size") => items.first().copied().ok_or_else(|| bad("a size without numbers")),
            ("collections", "OrderedDict") => {
                // Python 2 passes a list of pairs, Python 3 nothing.
                let mut dict = Vec::new();
                for &pair in items.first().and_then(|&list| self.as_sequence(list)).unwrap_or_default() {
                    match self.as_sequence(pair) {
                        Some(&[key, value]) => dict.push((key, value)),
                        _ => return Err(bad("a dictionary's pair is none")),
                    }
                }
                self.spend(dict.len())?;
                Ok(self.node(Node::Dict(dict)))
            }
            _ => Ok(Value::Opaque),
        }
    }

    /// The arguments of `_rebuild_tensor(storage, offset, size, stride, …)`.
    fn tensor(&self, items: &[Value]) -> Result<Tensor> {
        let &[storage, offset, shape, strides, ..] = items else { return Err(bad("a tensor lacks arguments")) };
        let (Value::Node(storage), Some(Node::Storage(_))) = (storage, self.peek(storage)) else {
            return Err(bad("a tensor without a storage"));
        };
        let Value::Int(offset) = offset else { return Err(bad("a tensor's offset is no number")) };
        let numbers = |value| -> Result<Vec<usize>> {
            let items = self.as_sequence(value).filter(|s| s.len() <= MAX_DIMS);
            let items = items.ok_or_else(|| bad("a tensor's shape is no short tuple"))?;
            items
                .iter()
                .map(|&v| match v {
                    Value::Int(n) => usize::try_from(n).map_err(|_| bad(&format!("a tensor has dimension {n}"))),
                    _ => Err(bad("a tensor's dimension is no number")),
                })
                .collect()
        };
        let (shape, strides) = (numbers(shape)?, numbers(strides)?);
        if shape.len() != strides.len() {
            return Err(bad("a tensor has more dimensions than strides"));
        }
        let offset = u64::try_from(offset).map_err(|_| bad(&format!("a tensor begins at {offset}")))?;
        Ok(Tensor { storage, offset, shape, strides })
    }

    /// `("storage", torch.FloatStorage, key, location, elements[, view])`.
    fn persistent(&mut self, id: Value) -> Result<Value> {
        let fail = || bad("a reference is no tensor storage");
        let items = self.as_sequence(id).ok_or_else(fail)?;
        let &[tag, class, key, _, numel, ref view @ ..] = items else { return Err(fail()) };
        let (Some("storage"), Some(Node::Global(module, class))) = (self.as_str(tag), self.peek(class)) else {
            return Err(fail());
        };
        let number = |value| match value {
            Value::Int(n) => u64::try_from(n).map_err(|_| fail()),
            _ => Err(fail()),
        };
        let dtype = match (module.as_str(), class.as_str()) {
            ("torch" | "torch.cuda", "DoubleStorage") => Dtype::F64,
            ("torch" | "torch.cuda", "FloatStorage") => Dtype::F32,
            ("torch" | "torch.cuda", "HalfStorage") => Dtype::F16,
            ("torch" | "torch.cuda", "BFloat16Storage") => Dtype::Bf16,
            (_, other) => Dtype::Other(other.to_owned()),
        };
        let key = match key {
            Value::Int(n) => n.to_string(),
            other => self.as_str(other).filter(|s| s.len() <= MAX_NAME).ok_or_else(fail)?.to_owned(),
        };
        let mut storage = Storage { key, dtype, numel: number(numel)?, offset: 0 };
        if let Some(&view) = view.first()
            && view != Value::None
        {
            let &[_, offset, _] = self.as_sequence(view).ok_or_else(fail)? else { return Err(fail()) };
            storage.offset = number(offset)?;
        }
        Ok(self.node(Node::Storage(storage)))
    }
}

#[cfg(test)]
mod tests;
