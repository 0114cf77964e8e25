//! Writes a U-Net as an ONNX file, which other engines run: ONNX Runtime, TensorRT, OpenVINO, Core ML, browsers.
//!
//! The graph has opset 17 and any number of images. Inputs: `sample` (float32 `[n, c, h, w]`), `timestep` (the network's
//! time index: float32 `[n]`, or int64 `[n]` where the network looks times up in a table) and, for a class-conditional
//! network, `class_labels` (int64 `[n]`). Output: `out_sample` (float32 `[n, channels, h, w]`), the network's prediction.
//! Weights are float32.
//!
//! The file's metadata holds the scheduler's config, so that the file alone is a model. It holds no time and no path: the
//! same model gives the same bytes.

mod builder;
mod message;
mod network;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use builder::{Builder, Element, tensor};
use message::Message;
use network::Translation;

use crate::error::{Error, Result};
use crate::io::checkpoint::SchedulerConfig;
use crate::io::files::write_atomically;
use crate::unet::graph::Graph;
use crate::unet::{Config, Parameters};

/// Version of the operators.
const OPSET: i64 = 17;
/// Version of the file format that goes with it.
const IR_VERSION: i64 = 8;
/// Most bytes of a message: readers count them in 31 bits.
const MOST_BYTES: u64 = (1 << 31) - 1;
/// The key of the scheduler's config in the file's metadata.
pub const SCHEDULER_KEY: &str = "skipstone.scheduler";
/// The key of the number of classes.
pub const CLASSES_KEY: &str = "skipstone.classes";
/// The key of the class that means "no class".
pub const NULL_CLASS_KEY: &str = "skipstone.null_class";

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct OnnxModel<'a> {
    /// The architecture.
    pub config: &'a Config,
    /// The weights.
    pub parameters: &'a Parameters,
    /// How the model was trained and how it is sampled by default.
    pub scheduler: &'a SchedulerConfig,
    /// The class that means "no class".
    pub null_class: Option<usize>,
}

/// Writes the model to `path`. If the file would exceed two gigabytes, the limit of the format, its weights go into a
/// second file beside it, `PATH.data`, whose path is returned; the two belong together.
///
/// # Errors
/// The parameters belong to another architecture, or a file cannot be written.
pub fn write_onnx(path: &Path, model: OnnxModel<'_>) -> Result<Option<PathBuf>> {
    write_within(path, model, MOST_BYTES)
}

/// Checks that [`write_onnx`] would replace nothing at `path` but an earlier file of its own.
///
/// # Errors
/// Another file is there, or it cannot be read.
pub fn check_replaced(path: &Path) -> Result<()> {
    // A device is written to, and nothing is lost with an empty file.
    if !std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0) {
        return Ok(());
    }
    let (ours, mut found) = (start().0, Vec::new());
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(ours.len() as u64).read_to_end(&mut found).map_err(|e| Error::io(path, e))?;
    if found == ours {
        return Ok(());
    }
    let message = "the file is not an ONNX file that this program wrote; remove it or choose another name";
    Err(Error::argument(message).in_file(path))
}

/// What every file begins with: the version of its format, and who wrote it.
fn start() -> Message {
    Message::default().int(1, IR_VERSION).bytes(2, "skipstone")
}

fn write_within(path: &Path, model: OnnxModel<'_>, most_bytes: u64) -> Result<Option<PathBuf>> {
    let OnnxModel { config, parameters, .. } = model;
    let graph = Graph::new(config, false)?;
    if graph.layout != **parameters.layout() {
        return Err(Error::data("the parameters do not fit the config: they belong to another architecture"));
    }
    let built = Translation::run(config, &graph, parameters);
    let whole = File::new(&built, model, None);
    if whole.len() <= most_bytes {
        write_atomically(path, |out| whole.write(path, out, &built))?;
        return Ok(None);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".data";
    let beside = path.with_file_name(&name);
    write_atomically(&beside, |out| {
        built.weights.iter().try_for_each(|tensor| write_values(&beside, out, &tensor.values))
    })?;
    let graph_only = File::new(&built, model, Some(&name));
    write_atomically(path, |out| graph_only.write(path, out, &built))?;
    Ok(Some(beside))
}

/// The bytes of a file, except for the values of its weights.
struct File {
    /// Everything before the weights.
    head: Message,
    /// The fields before each weight's values, if those are in the file.
    tensors: Vec<Message>,
    /// Bytes of all of the weights' values in the file.
    values: u64,
}

impl File {
    /// `ModelProto`. `external` names the file of the weights, if it is another.
    fn new(built: &Builder<'_>, model: OnnxModel<'_>, external: Option<&str>) -> Self {
        // GraphProto: a name, the operators, the weights.
        let mut graph = Message::default().bytes(2, "unet");
        graph.0.extend(&built.graph.0);
        let mut tensors = Vec::new();
        let mut at = 0;
        for weight in &built.weights {
            let mut fields = tensor(&weight.name, &weight.shape, Element::F32);
            if let Some(name) = external {
                let place =
                    [("location", name.to_owned()), ("offset", at.to_string()), ("length", weight.bytes().to_string())];
                for (key, value) in place {
                    fields = fields.message(13, &Message::default().bytes(1, key).bytes(2, value));
                }
                graph = graph.message(5, &fields.int(14, 1));
            } else {
                let fields = fields.open(9, weight.bytes());
                let mut field = Message::default().open(5, fields.0.len() as u64 + weight.bytes());
                field.0.extend(fields.0);
                tensors.push(field);
            }
            at += weight.bytes();
        }
        let values = if external.is_some() { 0 } else { at };
        let len = graph.0.len() as u64 + tensors.iter().map(|tensor| tensor.0.len() as u64).sum::<u64>() + values;
        let operators = Message::default().bytes(1, "").int(2, OPSET);
        let mut head = start().bytes(3, env!("CARGO_PKG_VERSION")).message(8, &operators);
        let optional = |key, n: Option<usize>| n.map(|n| (key, n.to_string()));
        let metadata = [
            Some((SCHEDULER_KEY, model.scheduler.to_json())),
            optional(CLASSES_KEY, model.config.num_class_embeds),
            optional(NULL_CLASS_KEY, model.null_class),
        ];
        for (key, value) in metadata.into_iter().flatten() {
            head = head.message(14, &Message::default().bytes(1, key).bytes(2, value));
        }
        let mut head = head.open(7, len);
        head.0.extend(graph.0);
        Self { head, tensors, values }
    }

    fn len(&self) -> u64 {
        self.head.0.len() as u64 + self.tensors.iter().map(|tensor| tensor.0.len() as u64).sum::<u64>() + self.values
    }

    fn write(&self, path: &Path, out: &mut dyn Write, built: &Builder<'_>) -> Result<()> {
        let refused = |e| Error::io(path, e);
        out.write_all(&self.head.0).map_err(refused)?;
        for (fields, tensor) in self.tensors.iter().zip(&built.weights) {
            out.write_all(&fields.0).map_err(refused)?;
            write_values(path, out, &tensor.values)?;
        }
        Ok(())
    }
}

fn write_values(path: &Path, out: &mut dyn Write, values: &[&[f32]]) -> Result<()> {
    for values in values {
        if cfg!(target_endian = "little") {
            out.write_all(bytemuck::cast_slice::<f32, u8>(values)).map_err(|e| Error::io(path, e))?;
        } else {
            values.iter().try_for_each(|v| out.write_all(&v.to_le_bytes())).map_err(|e| Error::io(path, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unet::initialise;

    #[test]
    fn weights_beyond_the_formats_limit_go_into_a_second_file() {
        let config = Config::smallest();
        let parameters = initialise(&config, || 0.5, || 1.0).unwrap();
        let scheduler = &SchedulerConfig::default();
        let model = OnnxModel { config: &config, parameters: &parameters, scheduler, null_class: None };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.onnx");
        assert_eq!(write_within(&path, model, MOST_BYTES).unwrap(), None);
        let whole = std::fs::read(&path).unwrap();
        // The length that was compared with the limit is that of the file.
        assert_eq!(write_within(&path, model, whole.len() as u64).unwrap(), None);
        let beside = write_within(&path, model, whole.len() as u64 - 1).unwrap().unwrap();
        assert_eq!(beside, folder.path().join("net.onnx.data"));
        let (graph, values) = (std::fs::read(&path).unwrap(), std::fs::read(&beside).unwrap());
        assert_eq!(values.len(), 4 * parameters.data().len());
        assert!(graph.len() + values.len() > whole.len() && graph.len() < whole.len());
        let find = |what: &[u8]| graph.windows(what.len()).any(|window| window == what);
        assert!(find(b"net.onnx.data") && find(b"offset") && !find(&values[..64]));
    }

    #[test]
    fn only_its_own_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.onnx");
        check_replaced(&path).unwrap();
        for foreign in ["prec", "\u{8}\u{8}\u{12}\u{7}pytorch and more"] {
            std::fs::write(&path, foreign).unwrap();
            let error = check_replaced(&path).unwrap_err();
            assert!(error.message().contains("remove it or choose another name"), "{error}");
        }
        let config = Config::smallest();
        let parameters = initialise(&config, || 0.5, || 1.0).unwrap();
        let scheduler = &SchedulerConfig::default();
        let model = OnnxModel { config: &config, parameters: &parameters, scheduler, null_class: None };
        write_onnx(&path, model).unwrap();
        check_replaced(&path).unwrap();
    }
}
