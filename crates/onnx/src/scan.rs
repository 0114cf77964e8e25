//! The outline of an ONNX file: inputs, outputs and the shapes of the weights, without the weights themselves.
//!
//! An ONNX file is a protocol-buffer message, `ModelProto` of
//! [onnx.proto3](https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3). The scan visits every nested message and checks
//! that it ends within its parent, so that a length in the file is never larger than the file. rten, which reads the file
//! afterwards, allocates what the lengths say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, Seek, SeekFrom};

use skipstone::error::{Error, Result};

/// Most bytes of a name or of a metadata entry.
const MOST_TEXT: u64 = 1 << 20;
/// Most dimensions of a value.
const MOST_DIMENSIONS: usize = 64;
/// Deepest nesting of graphs (the branches of conditions and loops) and of types.
const DEEPEST: usize = 16;

/// The numbers of a value, as far as this crate tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// float, float16 or double; passed to rten as f32.
    Float,
    /// int32 or int64; passed to rten as i32.
    Integer,
    /// Anything else.
    Other,
}

/// An input or output of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// Its numbers.
    pub element: Element,
    /// Its dimensions, `None` for those that the graph leaves free. `None` if the graph does not state a shape.
    pub shape: Option<Vec<Option<usize>>>,
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let element = match self.element {
            Element::Float => "float",
            Element::Integer => "integer",
            Element::Other => "other",
        };
        let size = |size: &Option<usize>| size.map_or("?".to_owned(), |size| size.to_string());
        let shape = match &self.shape {
            Some(shape) => format!("[{}]", shape.iter().map(size).collect::<Vec<_>>().join(", ")),
            None => "of unknown shape".to_owned(),
        };
        write!(f, "{} ({element} {shape})", self.name)
    }
}

/// What a file says about its network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The inputs, without those that have a value in the file.
    pub inputs: Vec<Value>,
    /// The outputs.
    pub outputs: Vec<Value>,
    /// The shape of each tensor in the file, by name.
    pub tensors: HashMap<String, Vec<u64>>,
    /// The operands of each `Gather`: table and indices.
    pub gathers: Vec<(String, String)>,
    /// Files beside this one that hold weights.
    pub external: BTreeSet<String>,
    /// Free text.
    pub metadata: BTreeMap<String, String>,
    operators: usize,
}

impl Outline {
    /// Scans a file of `len` bytes from its start.
    ///
    /// # Errors
    /// It is not an ONNX file, or it is damaged.
    pub fn scan(input: impl BufRead + Seek, len: u64) -> Result<Self> {
        let mut scan = Scan { input, at: 0, found: Self::default() };
        scan.model(len)?;
        let mut found = scan.found;
        if found.operators == 0 || found.outputs.is_empty() {
            return Err(Error::data("not an ONNX network: it has no graph with operators and outputs"));
        }
        let tensors = &found.tensors;
        found.inputs.retain(|input| !tensors.contains_key(&input.name));
        Ok(found)
    }

    /// Number of elements of all tensors.
    pub fn parameters(&self) -> usize {
        let len = |shape: &Vec<u64>| shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
        usize::try_from(self.tensors.values().map(len).fold(0, u64::saturating_add)).unwrap_or(usize::MAX)
    }
}

/// The content of a field.
#[derive(Clone, Copy, Debug)]
enum Content {
    Number(u64),
    /// A string, a nested message or packed numbers, which end here.
    Until(u64),
}

impl Content {
    fn end(self) -> Result<u64> {
        match self {
            Self::Until(end) => Ok(end),
            Self::Number(_) => Err(damaged("a number in place of a message")),
        }
    }
}

struct Scan<R> {
    input: R,
    at: u64,
    found: Outline,
}

fn damaged(what: &str) -> Error {
    Error::data(format!("not an ONNX file, or damaged: {what}"))
}

impl<R: BufRead + Seek> Scan<R> {
    fn bytes(&mut self, into: &mut [u8], end: u64) -> Result<()> {
        if into.len() as u64 > end - self.at {
            return Err(damaged("a value crosses the end of its message"));
        }
        self.input.read_exact(into).map_err(|_| damaged("it ends early"))?;
        self.at += into.len() as u64;
        Ok(())
    }

    fn varint(&mut self, end: u64) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.bytes(&mut byte, end)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged("a number of more than 64 bits"))
    }

    /// The next field of a message that ends at `end`.
    fn field(&mut self, end: u64) -> Result<Option<(u64, Content)>> {
        if self.at == end {
            return Ok(None);
        }
        let key = self.varint(end)?;
        let content = match key & 7 {
            0 => Content::Number(self.varint(end)?),
            1 => {
                self.bytes(&mut [0; 8], end)?;
                Content::Number(0)
            }
            5 => {
                self.bytes(&mut [0; 4], end)?;
                Content::Number(0)
            }
            2 => {
                let len = self.varint(end)?;
                if len > end - self.at {
                    return Err(damaged("a message is longer than what is left of the file or of its parent"));
                }
                Content::Until(self.at + len)
            }
            _ => return Err(damaged("an unknown kind of field")),
        };
        Ok(Some((key >> 3, content)))
    }

    fn skip(&mut self, content: Content) -> Result<()> {
        if let Content::Until(end) = content {
            let ahead = i64::try_from(end - self.at).map_err(|_| damaged("its length"))?;
            self.input.seek_relative(ahead).map_err(|_| damaged("it ends early"))?;
            self.at = end;
        }
        Ok(())
    }

    fn text(&mut self, content: Content) -> Result<String> {
        let end = content.end()?;
        if end - self.at > MOST_TEXT {
            return Err(damaged("a name of more than a million bytes"));
        }
        let mut bytes = vec![0; (end - self.at) as usize];
        self.bytes(&mut bytes, end)?;
        String::from_utf8(bytes).map_err(|_| damaged("a name is not UTF-8 text"))
    }

    /// `ModelProto`.
    fn model(&mut self, end: u64) -> Result<()> {
        while let Some((number, content)) = self.field(end)? {
            match number {
                7 => self.graph(content.end()?, 0)?,
                14 => {
                    let (key, value) = self.entry(content.end()?)?;
                    self.found.metadata.insert(key, value);
                }
                _ => self.skip(content)?,
            }
        }
        Ok(())
    }

    /// `StringStringEntryProto`.
    fn entry(&mut self, end: u64) -> Result<(String, String)> {
        let (mut key, mut value) = (String::new(), String::new());
        while let Some((number, content)) = self.field(end)? {
            match number {
                1 => key = self.text(content)?,
                2 => value = self.text(content)?,
                _ => self.skip(content)?,
            }
        }
        Ok((key, value))
    }

    /// `GraphProto`. Only the outermost one has the network's inputs and outputs.
    fn graph(&mut self, end: u64, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(damaged("graphs are nested too deeply"));
        }
        while let Some((number, content)) = self.field(end)? {
            match number {
                1 => self.node(content.end()?, depth)?,
                5 => {
                    let (name, shape) = self.tensor(content.end()?)?;
                    if depth == 0 {
                        self.found.tensors.insert(name, shape);
                    }
                }
                11..=13 => {
                    let value = self.value(content.end()?)?;
                    match number {
                        11 if depth == 0 => self.found.inputs.push(value),
                        12 if depth == 0 => self.found.outputs.push(value),
                        _ => {}
                    }
                }
                _ => self.skip(content)?,
            }
        }
        Ok(())
    }

    /// `NodeProto`.
    fn node(&mut self, end: u64, depth: usize) -> Result<()> {
        let (mut inputs, mut operator) = (Vec::new(), String::new());
        while let Some((number, content)) = self.field(end)? {
            match number {
                1 => inputs.push(self.text(content)?),
                4 => operator = self.text(content)?,
                5 => self.attribute(content.end()?, depth)?,
                _ => self.skip(content)?,
            }
        }
        self.found.operators += 1;
        if let ("Gather", [table, indices]) = (&*operator, &*inputs) {
            self.found.gathers.push((table.clone(), indices.clone()));
        }
        Ok(())
    }

    /// `AttributeProto`.
    fn attribute(&mut self, end: u64, depth: usize) -> Result<()> {
        while let Some((number, content)) = self.field(end)? {
            match number {
                5 | 10 => drop(self.tensor(content.end()?)?),
                6 | 11 => self.graph(content.end()?, depth + 1)?,
                _ => self.skip(content)?,
            }
        }
        Ok(())
    }

    /// `TensorProto`: its name and shape.
    fn tensor(&mut self, end: u64) -> Result<(String, Vec<u64>)> {
        let (mut name, mut shape) = (String::new(), Vec::new());
        while let Some((number, content)) = self.field(end)? {
            match (number, content) {
                (1, Content::Number(size)) => shape.push(size),
                (1, Content::Until(end)) => {
                    while self.at < end && shape.len() <= MOST_DIMENSIONS {
                        shape.push(self.varint(end)?);
                    }
                }
                (8, content) => name = self.text(content)?,
                (13, content) => {
                    let (key, value) = self.entry(content.end()?)?;
                    if key == "location" {
                        self.found.external.insert(value);
                    }
                }
                (_, content) => self.skip(content)?,
            }
            if shape.len() > MOST_DIMENSIONS {
                return Err(damaged("a tensor has too many dimensions"));
            }
        }
        Ok((name, shape))
    }

    /// `ValueInfoProto`.
    fn value(&mut self, end: u64) -> Result<Value> {
        let mut value = Value { name: String::new(), element: Element::Other, shape: None };
        while let Some((number, content)) = self.field(end)? {
            match number {
                1 => value.name = self.text(content)?,
                2 => self.kind(content.end()?, &mut value, 0)?,
                _ => self.skip(content)?,
            }
        }
        Ok(value)
    }

    /// `TypeProto`.
    fn kind(&mut self, end: u64, value: &mut Value, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(damaged("types are nested too deeply"));
        }
        while let Some((number, content)) = self.field(end)? {
            match number {
                1 => self.tensor_kind(content.end()?, value)?,
                // A sequence, whose only field is the type of its elements.
                4 => {
                    let end = content.end()?;
                    while let Some((_, content)) = self.field(end)? {
                        self.kind(content.end()?, &mut value.clone(), depth + 1)?;
                    }
                }
                _ => self.skip(content)?,
            }
        }
        Ok(())
    }

    /// `TypeProto.Tensor`.
    fn tensor_kind(&mut self, end: u64, value: &mut Value) -> Result<()> {
        while let Some((number, content)) = self.field(end)? {
            match (number, content) {
                (1, Content::Number(element)) => {
                    value.element = match element {
                        1 | 10 | 11 => Element::Float,
                        6 | 7 => Element::Integer,
                        _ => Element::Other,
                    };
                }
                (2, content) => {
                    let mut shape = Vec::new();
                    let end = content.end()?;
                    while let Some((number, content)) = self.field(end)? {
                        match number {
                            1 if shape.len() < MOST_DIMENSIONS => shape.push(self.dimension(content.end()?)?),
                            _ => return Err(damaged("a value has too many dimensions")),
                        }
                    }
                    value.shape = Some(shape);
                }
                (_, content) => self.skip(content)?,
            }
        }
        Ok(())
    }

    /// `TensorShapeProto.Dimension`. Exporters write 0 or −1 for some free dimensions.
    fn dimension(&mut self, end: u64) -> Result<Option<usize>> {
        let mut size = None;
        while let Some((number, content)) = self.field(end)? {
            match (number, content) {
                (1, Content::Number(value)) => size = usize::try_from(value as i64).ok().filter(|&size| size > 0),
                (_, content) => self.skip(content)?,
            }
        }
        Ok(size)
    }
}

/// The outline of the file at `path`.
pub(crate) fn scan_file(path: &std::path::Path) -> Result<Outline> {
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let len = file.seek(SeekFrom::End(0)).map_err(|e| Error::io(path, e))?;
    file.rewind().map_err(|e| Error::io(path, e))?;
    Outline::scan(std::io::BufReader::new(file), len).map_err(|e| e.in_file(path))
}
