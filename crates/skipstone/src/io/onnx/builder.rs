//! A graph of ONNX operators under construction.

use super::message::Message;

/// What an ONNX tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32 = 1,
    I64 = 7,
}

/// An attribute of an operator.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
    Text(&'a str),
}

/// A tensor of the file: its shape, and its values in one or more pieces.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<&'a [f32]>,
}

impl Tensor<'_> {
    pub fn bytes(&self) -> u64 {
        self.values.iter().map(|values| 4 * values.len() as u64).sum()
    }
}

/// The operators, inputs, outputs and tensors of a graph.
#[derive(Debug, Default)]
pub(super) struct Builder<'a> {
    /// Fields of `GraphProto`, without the tensors below.
    pub graph: Message,
    /// The large tensors: a network's weights.
    pub weights: Vec<Tensor<'a>>,
    made: usize,
}

impl<'a> Builder<'a> {
    /// Adds an operator and returns the name of its only output.
    pub fn op(&mut self, operator: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
        let [output] = self.ops(operator, inputs, attributes);
        output
    }

    /// As [`op`](Self::op), with several outputs.
    pub fn ops<const N: usize>(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
    ) -> [String; N] {
        let outputs = std::array::from_fn(|_| self.fresh(operator));
        self.op_to(operator, inputs, attributes, &outputs);
        outputs
    }

    /// As [`op`](Self::op), with given names of the outputs.
    pub fn op_to(&mut self, operator: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)], outputs: &[String]) {
        // NodeProto.
        let mut node = Message::default();
        for input in inputs {
            node = node.bytes(1, input);
        }
        for output in outputs {
            node = node.bytes(2, output);
        }
        node = node.bytes(3, format!("{operator}_for_{}", outputs[0])).bytes(4, operator);
        for &(name, attribute) in attributes {
            // AttributeProto, with its value and the kind of its value.
            let named = Message::default().bytes(1, name);
            let named = match attribute {
                Attribute::Float(value) => named.float(2, value).int(20, 1),
                Attribute::Int(value) => named.int(3, value).int(20, 2),
                Attribute::Text(value) => named.bytes(4, value).int(20, 3),
                Attribute::Ints(values) => values.iter().fold(named, |named, &value| named.int(8, value)).int(20, 7),
            };
            node = node.message(5, &named);
        }
        self.graph = std::mem::take(&mut self.graph).message(1, &node);
    }

    /// Adds weights and returns their name.
    pub fn weight(&mut self, name: &str, shape: &[usize], values: Vec<&'a [f32]>) -> String {
        self.weights.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), values });
        name.to_owned()
    }

    /// Adds a constant of the graph's own.
    pub fn floats(&mut self, shape: &[usize], values: &[f32]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(shape, Element::F32, &bytes)
    }

    /// As [`floats`](Self::floats): a list of integers.
    pub fn ints(&mut self, values: &[i64]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(&[values.len()], Element::I64, &bytes)
    }

    fn constant(&mut self, shape: &[usize], element: Element, bytes: &[u8]) -> String {
        let name = self.fresh("constant");
        let tensor = tensor(&name, shape, element).bytes(9, bytes);
        self.graph = std::mem::take(&mut self.graph).message(5, &tensor);
        name
    }

    /// Declares an input (field 11) or an output (field 12) with a free number of images.
    pub fn declare(&mut self, field: u64, name: &str, element: Element, shape: &[usize]) {
        let free = Message::default().bytes(2, "n");
        let mut dimensions = Message::default().message(1, &free);
        for &size in shape {
            dimensions = dimensions.message(1, &Message::default().int(1, size as i64));
        }
        let tensor = Message::default().int(1, element as i64).message(2, &dimensions);
        let kind = Message::default().message(1, &tensor);
        let value = Message::default().bytes(1, name).message(2, &kind);
        self.graph = std::mem::take(&mut self.graph).message(field, &value);
    }

    fn fresh(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{}_{}", what.to_lowercase(), self.made)
    }
}

/// The fields of a `TensorProto` before its values.
pub(super) fn tensor(name: &str, shape: &[usize], element: Element) -> Message {
    let sizes = shape.iter().fold(Message::default(), |sizes, &size| sizes.int(1, size as i64));
    sizes.int(2, element as i64).bytes(8, name)
}
