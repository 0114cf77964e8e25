//! How many images go through the network at a time.

use clap::Args;
use skipstone::sampling::generate::Generator;

/// How many images at a time.
#[derive(Clone, Copy, Debug)]
enum Batch {
    /// As many as keep the threads busy.
    Auto,
    /// So many.
    Images(usize),
}

/// The choice of it.
#[derive(Args, Clone, Copy, Debug)]
pub struct BatchArguments {
    /// Images at a time: auto or a number; what comes out does not depend on it
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = batch)]
    batch: Batch,
}

impl BatchArguments {
    /// How many of `n` images are made at a time.
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
