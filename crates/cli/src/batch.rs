//! `--batch`: how many images go through the network at a time.

use clap::Args;
use skipstone::sampling::generate::Generator;

/// How many images at a time.
#[derive(Clone, Copy, Debug)]
enum Batch {
    /// Enough to keep the threads busy.
    Auto,
    /// This number.
    Images(usize),
}

/// The `--batch` argument.
#[derive(Args, Clone, Copy, Debug)]
pub struct BatchArguments {
    /// Images per network call: auto or a number; results do not depend on it
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = batch)]
    batch: Batch,
}

impl BatchArguments {
    /// The batch size for `n` images.
    pub fn of(self, generator: &Generator, n: usize, threads: usize) -> usize {
        match self.batch {
            Batch::Auto => generator.batch(n, threads),
            Batch::Images(batch) => batch.min(n),
        }
    }
}

fn batch(text: &str) -> Result<Batch, String> {
    match text.parse() {
        _ if text == "auto" => Ok(Batch::Auto),
        Ok(n) if n > 0 => Ok(Batch::Images(n)),
        _ => Err("expected auto or a number of at least 1".to_owned()),
    }
}
