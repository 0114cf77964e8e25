//! Interprets the calls and references that `torch.save` writes.

use super::machine::Machine;
use super::{MAX_NAME, Node, Storage, Tensor, Value, bad};
use crate::error::Result;
use crate::io::checkpoint::tensors::Dtype;

/// Maximum number of tensor dimensions.
const MAX_DIMS: usize = 8;

impl Machine<'_> {
    /// The result of a call: data for the few known functions, opaque for all others.
    pub fn reduce(&mut self, function: Value, arguments: Value) -> Result<Value> {
        let Some(Node::Global(module, name)) = self.pickle.node(function) else { return Ok(Value::Opaque) };
        let (module, name) = (module.as_str(), name.as_str());
        let items = self.pickle.sequence(arguments).ok_or_else(|| bad("a call has no arguments"))?;
        match (module, name) {
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3" | "_rebuild_qtensor") => {
                let tensor = self.tensor(items)?;
                Ok(self.node(Node::Tensor(tensor)))
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                items.first().copied().ok_or_else(|| bad("a parameter has no tensor"))
            }
            ("torch", "Size") => items.first().copied().ok_or_else(|| bad("a size has no numbers")),
            ("collections", "OrderedDict") => {
                // Python 2 passes a list of pairs, Python 3 nothing.
                let mut dict = Vec::new();
                for &pair in items.first().and_then(|&list| self.pickle.sequence(list)).unwrap_or_default() {
                    match self.pickle.sequence(pair) {
                        Some(&[key, value]) => dict.push((key, value)),
                        _ => return Err(bad("a dictionary item is not a pair")),
                    }
                }
                self.spend(dict.len())?;
                Ok(self.node(Node::Dict(dict)))
            }
            _ => Ok(Value::Opaque),
        }
    }

    /// Interprets the arguments of `_rebuild_tensor(storage, offset, size, stride, …)`.
    fn tensor(&self, items: &[Value]) -> Result<Tensor> {
        let &[storage, offset, shape, strides, ..] = items else { return Err(bad("a tensor lacks arguments")) };
        let (Value::Node(storage), Some(Node::Storage(_))) = (storage, self.pickle.node(storage)) else {
            return Err(bad("a tensor has no storage"));
        };
        let Value::Int(offset) = offset else { return Err(bad("a tensor's offset is not an integer")) };
        let numbers = |value| -> Result<Vec<usize>> {
            let items = self.pickle.sequence(value).filter(|s| s.len() <= MAX_DIMS);
            let items = items
                .ok_or_else(|| bad(&format!("a tensor's shape is not a tuple of at most {MAX_DIMS} dimensions")))?;
            items
                .iter()
                .map(|&v| match v {
                    Value::Int(n) => usize::try_from(n).map_err(|_| bad(&format!("a tensor has dimension {n}"))),
                    _ => Err(bad("a tensor's dimension is not an integer")),
                })
                .collect()
        };
        let (shape, strides) = (numbers(shape)?, numbers(strides)?);
        if shape.len() != strides.len() {
            return Err(bad("a tensor's shape and strides differ in length"));
        }
        let offset = u64::try_from(offset).map_err(|_| bad(&format!("a tensor has offset {offset}")))?;
        // Types newer than the storages' classes, such as 8-bit floats, stand in a seventh argument.
        let dtype = match items.get(6).and_then(|&dtype| self.pickle.node(dtype)) {
            Some(Node::Global(module, name)) if module == "torch" => Some(Dtype::Other(name.clone())),
            _ => None,
        };
        Ok(Tensor { storage, offset, shape, strides, dtype })
    }

    /// Interprets a persistent id: `("storage", torch.FloatStorage, key, location, elements[, view])`.
    pub fn persistent(&mut self, id: Value) -> Result<Value> {
        let fail = || bad("a reference is not a tensor storage");
        let items = self.pickle.sequence(id).ok_or_else(fail)?;
        let &[tag, class, key, _, numel, ref view @ ..] = items else { return Err(fail()) };
        let (Some("storage"), Some(Node::Global(module, class))) = (self.pickle.str(tag), self.pickle.node(class))
        else {
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
            other => self.pickle.str(other).filter(|s| s.len() <= MAX_NAME).ok_or_else(fail)?.to_owned(),
        };
        let mut storage = Storage { key, dtype, numel: number(numel)?, offset: 0 };
        if let Some(&view) = view.first()
            && view != Value::None
        {
            let &[_, offset, _] = self.pickle.sequence(view).ok_or_else(fail)? else { return Err(fail()) };
            storage.offset = number(offset)?;
        }
        Ok(self.node(Node::Storage(storage)))
    }
}
