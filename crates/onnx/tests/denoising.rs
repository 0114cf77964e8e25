//! ONNX networks as denoisers, compared with PyTorch's answers (`golden/families/onnx_networks.py`).

#[path = "../../skipstone/tests/library/golden/mod.rs"]
mod golden;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ndarray::{Array4, Axis, Slice, concatenate};
use skipstone::engine::{Device, EngineOptions, Network, Precision};
use skipstone::io::checkpoint::{Model, SchedulerConfig};
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::{Condition, Prediction};
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::options::{ClipMode, Request};
use skipstone::{Error, Kind};
use skipstone_onnx::scan::Outline;
use skipstone_onnx::{Names, Options, load};

fn file(name: &str) -> PathBuf {
    golden::path(&format!("onnx_{name}.onnx"))
}

fn tensor(name: &str) -> Array4<f32> {
    golden::tensors("onnx.safetensors")[name].images()
}

fn named(path: &Path, names: &str) -> Result<Model, Error> {
    let names = if names.is_empty() { Names::default() } else { names.parse()? };
    load(path, &Options { names, scheduler: None })
}

fn open(model: &mut Model, threads: usize) -> Box<dyn Network> {
    model.open(&EngineOptions::on_threads(threads)).unwrap()
}

fn times(of: &[f64]) -> Vec<Time> {
    of.iter().map(|&index| Time::between(index + 1.0).unwrap()).collect()
}

fn relative(found: &Array4<f32>, expected: &Array4<f32>) -> f64 {
    let square = |x: &Array4<f32>| x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    (square(&(found - expected)) / square(expected)).sqrt()
}

#[test]
fn a_network_of_another_architecture_predicts_and_samples_as_in_pytorch() {
    let mut model = named(&file("shuffle"), "").unwrap();
    let (x, about) = (tensor("shuffle/x"), golden::json("onnx.json"));
    let network = open(&mut model, 2);
    assert_eq!((network.shape(), network.prediction()), ([3, 16, 16], Prediction::Epsilon));
    assert!(!network.takes_fractional_times());
    let found = network.predict(&x, &times(&[700.0, 30.0]), &[]).unwrap();
    assert!(relative(&found, &tensor("shuffle/predict")) < 1e-5);

    let calls = about["shuffle"]["ddim_times"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
    let request = Request { times: Some(calls), clip: Some(ClipMode::Off), ..Request::default() };
    let inputs = Inputs { latents: Some(x), ..Inputs::default() };
    let generator = Generator::new(model, &EngineOptions::on_threads(2), &request, inputs, 0, 2).unwrap();
    let found = generator.generate(0..2, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(relative(&found, &tensor("shuffle/ddim10")) < 1e-4);
}

#[test]
fn a_row_does_not_depend_on_the_batch_or_the_threads() {
    let mut model = named(&file("shuffle"), "").unwrap();
    let x = tensor("shuffle/x");
    let seven = concatenate(Axis(0), &[x.view(), x.view(), x.view(), x.slice_axis(Axis(0), Slice::from(..1))]).unwrap();
    let at = times(&[700.0, 30.0, 700.0, 30.0, 1.0, 2.0, 700.0]);
    let expected = open(&mut model, 1).predict(&seven, &at, &[]).unwrap();
    for threads in [1, 2, 3, 8] {
        let network = open(&mut model, threads);
        assert_eq!(network.predict(&seven, &at, &[]).unwrap(), expected, "{threads}");
        for row in 0..7 {
            let one = seven.slice_axis(Axis(0), Slice::from(row..row + 1)).to_owned();
            let found = network.predict(&one, &at[row..=row], &[]).unwrap();
            assert_eq!(found.index_axis(Axis(0), 0), expected.index_axis(Axis(0), row), "{threads}");
        }
    }
}

#[test]
fn a_fixed_batch_is_filled_and_rows_of_other_times_go_into_other_calls() {
    let error = named(&file("fixed"), "").unwrap_err();
    assert!(error.message().contains("hidden (float [3, 2, 6, 10]), v (float [3, 2, 6, 10])"), "{error}");
    let mut model = named(&file("fixed"), "output=v").unwrap();
    // The number of classes is that of the table they are looked up in.
    assert_eq!((model.config.num_class_embeds, model.null_class), (Some(5), None));
    let network = open(&mut model, 2);
    assert!(network.takes_fractional_times());
    let (x, classes) = (tensor("fixed/x"), Condition::classes(&[4, 0, 2]));
    let expected = [tensor("fixed/predict_700"), tensor("fixed/predict_30.5")];
    let found = network.predict(&x, &times(&[700.0; 3]), &classes).unwrap();
    assert!(relative(&found, &expected[0]) < 1e-5);
    // Five rows at two times: calls of (0, 1), (2), (3, 4), each filled up to three rows.
    let rows = [0, 1, 2, 1, 0];
    let x = x.select(Axis(0), &rows);
    let classes: Vec<Condition> = rows.iter().map(|&row| classes[row]).collect();
    let found = network.predict(&x, &times(&[700.0, 700.0, 30.5, 700.0, 700.0]), &classes).unwrap();
    let wanted = [0, 0, 1, 0, 0].map(|time: usize| &expected[time]);
    let wanted: Vec<_> = wanted.iter().zip(rows).map(|(all, row)| all.index_axis(Axis(0), row)).collect();
    assert!(relative(&found, &ndarray::stack(Axis(0), &wanted).unwrap()) < 1e-5);

    for (conditions, message) in [
        (vec![Condition::Class(5); 5], "expected 0 to 4, found 5"),
        (Vec::new(), "needs one of its 5 classes"),
        (vec![Condition::Class(0); 4], "expected one per image"),
    ] {
        let error = network.predict(&x, &times(&[1.0; 5]), &conditions).unwrap_err();
        assert!(error.message().contains(message), "{error}");
    }
}

#[test]
fn a_free_size_is_given_and_the_learnt_variance_is_left_out() {
    let error = named(&file("free"), "").unwrap_err();
    assert_eq!(error.message(), "the graph leaves the height free; give --onnx size=HxW");
    let mut model = named(&file("free"), "size=8x12").unwrap();
    let x = tensor("free/x");
    let network = open(&mut model, 1);
    assert_eq!(network.shape(), [2, 8, 12]);
    let found = network.predict(&x, &times(&[700.0, 30.5]), &[]).unwrap();
    let expected = tensor("free/predict").slice_axis(Axis(1), Slice::from(..2)).to_owned();
    assert!(relative(&found, &expected) < 1e-5);
    assert!(network.predict(&x, &times(&[700.0, 30.5]), &Condition::classes(&[0, 1])).is_err());
    assert!(network.predict(&x, &[Time::CLEAN; 2], &[]).is_err());
    assert!(network.predict(&x, &times(&[1.0]), &[]).is_err());
    assert!(network.predict(&Array4::zeros((2, 2, 12, 8)), &times(&[1.0; 2]), &[]).is_err());
    // Names and sizes belong to what makes the images.
    let other = named(&file("free"), "size=12x8").unwrap();
    assert_ne!(model.hash, other.hash);
    let half = EngineOptions { precision: Precision::F16, ..EngineOptions::on_threads(1) };
    assert!(model.open(&half).unwrap_err().message().starts_with("precision"));
    let gpu = EngineOptions { device: "vulkan:1".parse().unwrap(), ..EngineOptions::on_threads(1) };
    assert!(model.open(&gpu).unwrap_err().message().ends_with("on the CPU, found vulkan:1"));
    let auto = EngineOptions { device: Device::Auto, ..EngineOptions::on_threads(1) };
    assert!(model.open(&auto).is_ok());
}

#[test]
fn the_scheduler_is_that_of_the_options_or_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.onnx");
    std::fs::copy(file("shuffle"), &path).unwrap();
    let plain = named(&path, "").unwrap();
    assert_eq!(plain.scheduler, SchedulerConfig::default());
    let beside =
        SchedulerConfig { prediction_type: Prediction::Velocity, beta_end: 0.01, ..SchedulerConfig::default() };
    std::fs::write(folder.path().join("scheduler_config.json"), beside.to_json()).unwrap();
    assert_eq!(named(&path, "").unwrap().scheduler, beside);
    let given = SchedulerConfig { prediction_type: Prediction::Sample, ..SchedulerConfig::default() };
    let options = Options { scheduler: Some(given.clone()), ..Options::default() };
    let model = load(&path, &options).unwrap();
    assert_eq!((model.scheduler, &model.hash), (given, &plain.hash));
    std::fs::write(folder.path().join("scheduler_config.json"), "{").unwrap();
    assert!(named(&path, "").unwrap_err().path().is_some_and(|path| path.ends_with("scheduler_config.json")));
}

#[test]
fn graphs_that_are_no_denoisers_say_what_is_wrong() {
    for (name, names, kind, message) in [
        ("no_timestep", "", Kind::Unsupported, "expected one input for the timestep"),
        ("vectors", "", Kind::Unsupported, "expected one input of images, float [n, channels, height, width]"),
        ("vectors", "sample=sample", Kind::Unsupported, "sample (float [?, 16]); expected float [n, channels"),
        ("operator", "", Kind::Unsupported, "Det operator not supported"),
        (
            "shuffle",
            "sample=x",
            Kind::InvalidArgument,
            "the graph's inputs are sample (float [?, 3, 16, 16]), timestep",
        ),
        ("shuffle", "timestep=sample", Kind::InvalidArgument, "an input has two names"),
        ("shuffle", "class=timestep", Kind::Unsupported, "expected one input for the timestep"),
        ("shuffle", "output=v", Kind::InvalidArgument, "the graph's outputs are epsilon"),
        ("shuffle", "size=8x8", Kind::InvalidArgument, "fixes the height to 16, found 8"),
        ("free", "size=100000x100000", Kind::Unsupported, "too large"),
        ("fixed", "output=v,null=9", Kind::InvalidArgument, "null=9 is not one of the 5 classes"),
    ] {
        let error = named(&file(name), names).unwrap_err();
        assert_eq!(error.kind(), kind, "{name}, {names}: {error}");
        assert!(error.message().contains(message), "{name}, {names}: {error}");
        assert!(error.path().is_some(), "{error}");
    }
    let error = named(&file("rows"), "").unwrap().open(&EngineOptions::on_threads(1)).unwrap_err();
    assert!(error.message().contains("[1, 1, 8, 4]; expected [1, 1, 4, 4]"), "{error}");
    for text in ["sample", "sample=", "image=x", "size=0", "size=8x", "classes=0", "null=-1"] {
        assert_eq!(named(&file("shuffle"), text).unwrap_err().kind(), Kind::InvalidArgument, "{text}");
    }
}

#[test]
fn damaged_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.onnx");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = named(&path, "").unwrap_err();
        assert!(matches!(error.kind(), Kind::InvalidData | Kind::Unsupported), "{error}");
        assert_eq!(error.path(), Some(&*path));
    };
    let whole = golden::bytes("onnx_fixed.onnx");
    (0..whole.len()).step_by(37).for_each(|len| refused(&whole[..len]));
    refused(b"");
    refused(b"not an ONNX file at all");
    refused(&golden::bytes("onnx.safetensors"));
    // A text of 2^60 bytes, which nothing may allocate.
    refused(b"\x08\x08\x12\x80\x80\x80\x80\x80\x80\x80\x80\x10");
    // Graphs in the attributes of operators in graphs, without end.
    let mut nested = b"\x0a\x00".to_vec();
    let wrapped = |field: u8, inner: &[u8]| {
        let (mut bytes, mut len) = (vec![field << 3 | 2], inner.len());
        while len >= 0x80 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        bytes.extend(inner);
        bytes
    };
    for _ in 0..10_000 {
        nested = wrapped(1, &wrapped(5, &wrapped(6, &nested)));
    }
    refused(&wrapped(7, &nested));
    assert_eq!(named(&folder.path().join("absent.onnx"), "").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_changed_byte_is_an_error_or_another_network_but_no_panic() {
    let names: Names = "size=8x8,channels=3,classes=10".parse().unwrap();
    for name in ["fixed", "free", "operator"] {
        let whole = golden::bytes(&format!("onnx_{name}.onnx"));
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 0x10] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                let len = bytes.len() as u64;
                if let Ok(outline) = Outline::scan(std::io::Cursor::new(bytes), len) {
                    outline.parameters();
                    let _ = (outline.describe(&Names::default()), outline.describe(&names));
                }
            }
        }
    }
}
