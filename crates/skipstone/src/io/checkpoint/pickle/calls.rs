//! What the calls and references that `torch.save` writes mean.

use super::machine::Machine;
use super::{MAX_NAME, Node, Storage, Tensor, Value, bad};
use crate::error::Result;
use crate::io::checkpoint::tensors::Dtype;

/// Dimensions of a tensor.
const MAX_DIMS: usize = 8;

impl Machine<'_> {
    /// What a call means, for the few functions that are known; opaque for all others.
    pub fn reduce(&mut self, function: Value, arguments: Value) -> Result<Value> {
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
    pub fn persistent(&mut self, id: Value) -> Result<Value> {
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
