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
    pub fn run(self, generator: Generator, n: usize, batch: usize, common: &CommonArguments) -> anyhow::Result<Done> {
        if common.dry_run {
            return self.dry_run(&generator, n, batch, common);
        }
        let begun = Instant::now();
        let (generator, rows) = self.draw(generator, n, batch)?;
        self.write(&generator, &rows, n)?;
        self.print(&generator, &rows, n, common.json)?;
        say(format_args!(
            "{n} image(s), rows {:?}; distances: root mean square in [0, 1]; coarse: of means over {SQUARE} x {SQUARE} pixels{}; {}",
            self.steps(),
            self.scale(n).map_or_else(String::new, |network| {
                format!("; features: {}, where 1 is the distance between images of two latents", network.name())
            }),
            duration(begun.elapsed().as_secs_f64())
        ));
        if !common.json {
            emit(self.path.display())?;
        }
        Ok(Done::Finished)
    }

    /// The numbers of steps.
    fn steps(&self) -> Vec<usize> {
        self.runs.iter().map(|(_, plan)| plan.steps().len()).collect()
    }

    /// What measures distances between features. Their scale is that between images of two latents: one image has none.
    fn scale(&self, n: usize) -> Option<&dyn FeatureNetwork> {
        self.network.as_deref().filter(|_| n > 1)
    }

    fn dry_run(&self, generator: &Generator, n: usize, batch: usize, common: &CommonArguments) -> anyhow::Result<Done> {
        let (steps, output) = (self.steps(), self.path.display().to_string());
        let (mut total, mut flops) = (0, 0);
        for (_, plan) in &self.runs {
            let evaluations = generator.evaluations_of(plan)?;
            total += evaluations;
            flops += generator.flops_for(generator.calls_of(plan), evaluations);
        }
        let work = Work::of(flops as f64 * n as f64);
        common.finish_dry_run(
            &json!({"n": n, "steps": steps, "calls": total, "gflop": work.json(), "output": output}),
            &[
                format!("images      {n} in each of {} rows, in batches of {batch}", steps.len()),
                format!("steps       {steps:?}, {total} network calls per latent in total"),
                format!("work        {work}"),
                format!("would write {output}"),
            ],
        )
    }

    /// The images of every row.
    fn draw(&self, mut generator: Generator, n: usize, batch: usize) -> anyhow::Result<(Generator, Vec<Array4<f32>>)> {
        let first = generator.first();
        let moves: usize = self.runs.iter().map(|(_, plan)| generator.moves_of(plan)).sum();
        let bar = crate::bars::bar("sampling", 0, (moves * n.div_ceil(batch)) as u64);
        let mut rows = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            generator = generator.with_run(run.clone(), n)?;
            rows.push(generator.generate_array(first..first + n as u64, batch, &mut |_, _| {
                bar.inc(1);
                interrupt::flow()
            })?);
        }
        bar.finish_and_clear();
        Ok((generator, rows))
    }

    fn write(&self, generator: &Generator, rows: &[Array4<f32>], n: usize) -> anyhow::Result<()> {
        let all = concatenate(Axis(0), &rows.iter().map(|x| x.view()).collect::<Vec<_>>())?;
        let (_, _, h, w) = all.dim();
        let mut texts = generator.settings().to_texts();
        texts.retain(|(key, _)| !matches!(key.as_str(), "steps" | "times"));
        texts.push(("rows".to_owned(), format!("steps {:?}", self.steps())));
        texts.push(("first".to_owned(), generator.first().to_string()));
        texts.push(("n".to_owned(), n.to_string()));
        Ok(write_png(&self.path, &grid(&all, n, &Layout::magnified(h, w))?, &text_chunks(&texts))?)
    }

    /// Prints the distance of every row to that of the most steps.
    fn print(&self, generator: &Generator, rows: &[Array4<f32>], n: usize, json: bool) -> anyhow::Result<()> {
        let steps = self.steps();
        let longest = steps.iter().enumerate().max_by_key(|(_, steps)| **steps).map_or(0, |(i, _)| i);
        let network = self.scale(n);
        let seen = match network {
            Some(network) => rows.iter().map(|x| features(network, x.view())).collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        if !json {
            let column = if seen.is_empty() { "" } else { " features" };
            emit(format_args!("  steps   coarse     full{column}   (distance to {} steps)", steps[longest]))?;
        }
        for (i, ((settings, plan), x)) in self.runs.iter().zip(rows).enumerate() {
            let d = distance(x, &rows[longest], SQUARE)?;
            let apart = seen.get(i).map(|row| feature_distance(row, &seen[longest])).transpose()?;
            if json {
                let calls = generator.evaluations_of(plan)?;
                let mut line = json!({
                    "steps": settings.steps, "calls": calls, "coarse_rms": d.low, "rms": d.full, "square": SQUARE,
                    "against": self.runs[longest].0.steps, "n": n, "output": self.path.display().to_string(),
                });
                if let (Some(apart), Some(network)) = (apart, network) {
                    line["feature_distance"] = apart.into();
                    line["features"] = network.name().into();
                }
                emit(line)?;
            } else {
                let apart = apart.map_or_else(String::new, |apart| format!(" {apart:>8.4}"));
                emit(format_args!("{:>7} {:>8.4} {:>8.4}{apart}", steps[i], d.low, d.full))?;
            }
        }
        Ok(())
    }
}
