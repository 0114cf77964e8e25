//! `sample --steps 10,20,50,…`: the same latents with different numbers of steps (DDIM §5.2), as one image file.

use std::path::PathBuf;
use std::time::Instant;

use ndarray::{Array4, Axis, concatenate};
use serde_json::json;
use skipstone::io::checkpoint::Model;
use skipstone::io::image::{Layout, grid, text_chunks, write_png};
use skipstone::math::latent::{SQUARE, distance};
use skipstone::sampling::generate::{Generator, Settings, note};
use skipstone::sampling::options::Request;
use skipstone::sampling::sampler::Plan;
use skipstone_eval::{FeatureNetwork, check_takes, feature_distance, features};

use crate::common::{CommonArguments, Work, duration};
use crate::failure::{Done, Usage, emit, say};
use crate::interrupt;
use crate::output::Target;

/// Several runs from the same latents, one row each.
pub struct Rows {
    path: PathBuf,
    runs: Vec<(Settings, Plan)>,
    /// Measures the distance between images, in addition to their pixels.
    network: Option<Box<dyn FeatureNetwork>>,
}

impl Rows {
    /// The runs of these requests, to be written to `target`.
    pub fn resolve(
        model: &Model,
        requests: &[Request],
        target: &Target,
        network: Option<Box<dyn FeatureNetwork>>,
    ) -> anyhow::Result<Self> {
        let Target::Grid(path) = target else {
            return Err(Usage(format!(
                "--steps: a list of steps makes one PNG file with a row for each; {} does not end in .png (for a folder \
                 or a tensor, give one number of steps)",
                target.path().display()
            ))
            .into());
        };
        let runs: Vec<(Settings, Plan)> =
            requests.iter().map(|request| Settings::resolve(model, request)).collect::<Result<_, _>>()?;
        for (settings, plan) in &runs {
            if let Some(note) = note(model, plan) {
                say(format_args!("note: --steps {}: {note}", settings.times.len()));
            }
        }
        if let Some(network) = &network {
            let [height, width] = model.config.sample_size;
            check_takes(&**network, [model.config.image_channels(), height, width])?;
        }
        Ok(Self { path: path.clone(), runs, network })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Samples all rows, writes the image file and prints the distances.
    pub fn run(
        self,
        mut generator: Generator,
        n: usize,
        batch: usize,
        common: &CommonArguments,
    ) -> anyhow::Result<Done> {
        let json = common.json;
        let steps: Vec<usize> = self.runs.iter().map(|(_, plan)| plan.steps().len()).collect();
        let calls: Vec<usize> = self.runs.iter().map(|(_, plan)| generator.calls_of(plan)).collect();
        let output = self.path.display().to_string();
        if common.dry_run {
            let total: usize = calls.iter().sum();
            let work = Work::of(generator.flops_per_call() as f64 * (total * n) as f64);
            let total = total * generator.calls_per_step();
            return common.finish_dry_run(
                &json!({"n": n, "steps": steps, "calls": total, "gflop": work.json(), "output": output}),
                &[
                    format!("images      {n} in each of {} rows, in batches of {batch}", steps.len()),
                    format!("steps       {steps:?}, {total} network calls per latent in total"),
                    format!("work        {work}"),
                    format!("would write {output}"),
                ],
            );
        }
        let first = generator.first();
        let moves: usize = self.runs.iter().map(|(_, plan)| generator.moves_of(plan)).sum();
        let bar = crate::bars::bar("sampling", 0, (moves * n.div_ceil(batch)) as u64);
        let begun = Instant::now();
        let mut rows: Vec<(Settings, Array4<f32>)> = Vec::new();
        for run in self.runs {
            let settings = run.0.clone();
            generator = generator.with_run(run, n)?;
            let x0 = generator.generate_array(first..first + n as u64, batch, &mut |_, _| {
                bar.inc(1);
                interrupt::flow()
            })?;
            rows.push((settings, x0));
        }
        bar.finish_and_clear();

        let all = concatenate(Axis(0), &rows.iter().map(|(_, x)| x.view()).collect::<Vec<_>>())?;
        let (_, _, h, w) = all.dim();
        let mut texts = generator.settings().to_texts();
        texts.retain(|(key, _)| !matches!(key.as_str(), "steps" | "times"));
        texts.push(("rows".to_owned(), format!("steps {steps:?}")));
        texts.push(("first".to_owned(), first.to_string()));
        texts.push(("n".to_owned(), n.to_string()));
        write_png(&self.path, &grid(&all, n, &Layout::magnified(h, w))?, &text_chunks(&texts))?;

        let longest = steps.iter().enumerate().max_by_key(|(_, steps)| **steps).map_or(0, |(i, _)| i);
        // The scale of feature distances is that between images of two latents: one image has none.
        let network = self.network.as_deref().filter(|_| n > 1);
        let seen = match network {
            Some(network) => rows.iter().map(|(_, x)| features(network, x.view())).collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        if !json {
            let column = if seen.is_empty() { "" } else { " features" };
            emit(format_args!("  steps   coarse     full{column}   (distance to {} steps)", steps[longest]))?;
        }
        for (i, ((settings, x), &made)) in rows.iter().zip(&steps).enumerate() {
            let d = distance(x, &rows[longest].1, SQUARE)?;
            let apart = seen.get(i).map(|row| feature_distance(row, &seen[longest])).transpose()?;
            if json {
                let mut line = json!({
                    "steps": settings.steps, "calls": calls[i] * generator.calls_per_step(), "coarse_rms": d.low,
                    "rms": d.full, "square": SQUARE, "against": rows[longest].0.steps, "n": n, "output": output,
                });
                if let (Some(apart), Some(network)) = (apart, network) {
                    line["feature_distance"] = apart.into();
                    line["features"] = network.name().into();
                }
                emit(line)?;
            } else {
                let apart = apart.map_or_else(String::new, |apart| format!(" {apart:>8.4}"));
                emit(format_args!("{made:>7} {:>8.4} {:>8.4}{apart}", d.low, d.full))?;
            }
        }
        let in_features = network.map_or_else(String::new, |network| {
            format!("; features: {}, where 1 is the distance between images of two latents", network.name())
        });
        say(format_args!(
            "{n} image(s), rows {steps:?}; distances: root mean square in [0, 1]; coarse: of means over {SQUARE} x {SQUARE} pixels{in_features}; {}",
            duration(begun.elapsed().as_secs_f64())
        ));
        if !json {
            emit(output)?;
        }
        Ok(Done::Finished)
    }
}
