//! The machine: its bytes, stack, memo and arena of values.

use std::collections::HashMap;

use super::{Id, Node, Pickle, Value, bad};
use crate::error::{Error, Result};

/// Maximum number of instructions. Checkpoints of this family have some hundred thousand, including the optimiser.
const MAX_STEPS: usize = 2 << 20;

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The values so far; the root is unset.
    pub pickle: Pickle,
    pub stack: Vec<Value>,
    /// Stack positions at which containers begin.
    pub marks: Vec<usize>,
    pub memo: HashMap<u64, Value>,
    steps: usize,
}

impl<'a> Machine<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let pickle = Pickle { nodes: Vec::new(), root: Value::None };
        Self { bytes, at: 0, pickle, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), steps: 0 }
    }

    /// Number of bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Executes the instructions to the end and returns the resulting value.
    pub fn run(&mut self) -> Result<Value> {
        loop {
            self.spend(1)?;
            let op = self.take(1)?[0];
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
    }

    /// Counts work that the number of bytes does not bound.
    pub fn spend(&mut self, steps: usize) -> Result<()> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return Err(Error::unsupported(format!("more than {MAX_STEPS} instructions")));
        }
        Ok(())
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or_else(|| bad("truncated"))?;
        self.at += n;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("N bytes were taken"))
    }

    pub fn counted(&mut self, n: u64) -> Result<&'a [u8]> {
        self.take(usize::try_from(n).map_err(|_| bad("a length exceeds memory"))?)
    }

    pub fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or_else(|| bad("truncated within a line"))?;
        self.at += n + 1;
        std::str::from_utf8(&rest[..n]).map_err(|_| bad("a line is not UTF-8"))
    }

    pub fn node(&mut self, node: Node) -> Value {
        // An instruction creates at most one node, so the index fits.
        let id = Id(self.pickle.nodes.len() as u32);
        self.pickle.nodes.push(node);
        Value::Node(id)
    }

    pub fn push(&mut self, node: Node) {
        let value = self.node(node);
        self.stack.push(value);
    }

    pub fn text(&mut self, bytes: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(bytes).map_err(|_| bad("a string is not UTF-8"))?;
        self.push(Node::Str(text.to_owned()));
        Ok(())
    }

    /// A byte string of Python 2. Names are ASCII, so anything else is opaque.
    pub fn byte_string(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Node::Str(text.to_owned())),
            Err(_) => self.stack.push(Value::Opaque),
        }
    }

    /// The lowest stack position that may be popped. Below it are the contents of an enclosing container.
    pub fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub fn pop(&mut self) -> Result<Value> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    pub fn top(&self) -> Result<Value> {
        let own = self.stack.get(self.floor()..).unwrap_or_default();
        own.last().copied().ok_or_else(|| bad("the stack is empty"))
    }

    pub fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| bad("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    pub fn get(&mut self, key: u64) -> Result<()> {
        let value =
            *self.memo.get(&key).ok_or_else(|| bad("an instruction refers to a value that was never stored"))?;
        self.stack.push(value);
        Ok(())
    }

    pub fn put(&mut self, key: u64) -> Result<()> {
        let value = self.top()?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn get_mut(&mut self, value: Value) -> Option<&mut Node> {
        match value {
            Value::Node(id) => Some(&mut self.pickle.nodes[id.0 as usize]),
            _ => None,
        }
    }

    pub fn extend(&mut self, items: Vec<Value>) -> Result<()> {
        let target = self.top()?;
        match self.get_mut(target) {
            Some(Node::Sequence(list)) => list.extend(items),
            None if target == Value::Opaque => {}
            _ => return Err(bad("items are added to a value that is not a list")),
        }
        Ok(())
    }

    pub fn insert(&mut self, items: &[Value]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(bad("a key has no value"));
        }
        let target = self.top()?;
        match self.get_mut(target) {
            Some(Node::Dict(dict)) => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            None if target == Value::Opaque => {}
            _ => return Err(bad("keys are set in a value that is not a dictionary")),
        }
        Ok(())
    }

    pub fn long(&mut self, n: u64) -> Result<()> {
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
}
