//! Trains the classifier whose features scores of Fashion-MNIST are taken in, and writes its weights.
//!
//! ```text
//! cargo run --release -p skipstone-eval --example train_classifier -- fashion-cnn.safetensors
//! ```
//!
//! The same bytes come out whatever the number of threads (on processors with the same instruction set).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use skipstone::io::data::{DataOptions, DataSpec, Split};
use skipstone::{Error, Result};
use skipstone_eval::classifier::{Recipe, Training};

fn main() -> std::process::ExitCode {
    let Some(output) = std::env::args().nth(1) else {
        eprintln!("usage: train_classifier OUTPUT.safetensors [EPOCHS]");
        return std::process::ExitCode::from(2);
    };
    match run(output.into()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(output: PathBuf) -> Result<()> {
    let mut recipe = Recipe::default();
    if let Some(epochs) = std::env::args().nth(2) {
        recipe.epochs = epochs.parse().map_err(|_| Error::argument(format!("epochs: {epochs} is no number")))?;
    }
    let load = |split| DataSpec::FashionMnist.load(split, &DataOptions::default());
    let (train, test) = (load(Split::Train)?, load(Split::Test)?);
    let begun = Instant::now();
    let mut training = Training::new(recipe, &train)?;
    let mut mean = 0.0;
    while let Some(step) = training.step()? {
        mean += step.loss / 100.0;
        if step.step % 100 == 0 {
            eprintln!("step {} of {}: loss {mean:.4}, {:.0} s", step.step, step.of, begun.elapsed().as_secs_f64());
            mean = 0.0;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let classifier = training.classifier()?;
    let found = classifier.classes(test.batch(0..test.len())?.view())?;
    let labels = test.labels().unwrap_or_default();
    let right = found.iter().zip(labels).filter(|(found, label)| found == label).count();
    let accuracy = format!("{:.4}", right as f64 / labels.len() as f64);
    let about = BTreeMap::from([
        ("accuracy".to_owned(), format!("{accuracy} ({right} of {} test images)", labels.len())),
        ("data".to_owned(), format!("{}, {} training images", train.name(), train.len())),
        ("recipe".to_owned(), format!("{recipe:?}")),
    ]);
    classifier.write(&output, &about)?;
    println!("{}: accuracy {accuracy} on {} test images, {seconds:.0} s", output.display(), labels.len());
    Ok(())
}
