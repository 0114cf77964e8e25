//! From one image to another through the space of latents: what `skipstone interpolate` does.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array4, Axis};
use skipstone::math::latent;
use skipstone::math::noise::latents_of;
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::inversion::Method;

use super::context::Context;
use super::request::{SourceImages, WorkRequest};
use super::task_run::TaskRun;
use crate::api::{Answer, InterpolatePlan, InterpolateRequest, Interpolation, Plan, Tile, grid_png, image_png};
use crate::core::{EventSink, Failure, ServedModel, Task, Work};

/// The ends to interpolate between.
#[derive(Clone, Debug)]
enum Ends {
    /// The images that these seeds make.
    Seeds(Vec<u64>),
    /// Images, `[2 or 4, c, h, w]`, to be encoded first.
    Images(Array4<f32>),
}

impl Ends {
    fn count(&self) -> usize {
        match self {
            Self::Seeds(seeds) => seeds.len(),
            Self::Images(images) => images.dim().0,
        }
    }
}

/// A checked request to interpolate.
pub struct InterpolateWork {
    model: Arc<ServedModel>,
    ends: Ends,
    generator: Generator,
    points: Points,
    n: usize,
    command: Option<String>,
}

/// The points to make images at.
#[derive(Clone, Debug, PartialEq)]
enum Points {
    /// So many, evenly, on a line or on each side of a square.
    Even(usize),
    /// A single one: λ of a line, or column and row of a square.
    At(Vec<f64>),
}

impl Points {
    /// The points of a request between so many ends, and their number.
    fn of(request: &InterpolateRequest, ends: usize) -> Result<(Self, usize), Failure> {
        let coordinates = match ends {
            2 => 1,
            4 => 2,
            found => {
                let message = format!("seeds: expected two ends (a line) or four (a square), found {found}");
                return Err(Failure::Refused(message));
            }
        };
        if let Some(at) = &request.at {
            if at.len() != coordinates || at.iter().any(|at| !(0.0..=1.0).contains(at)) {
                let message = format!("at: expected {coordinates} number(s) from 0 to 1 for {ends} ends, found {at:?}");
                return Err(Failure::Refused(message));
            }
            return Ok((Self::At(at.clone()), 1));
        }
        let points = request.points;
        if points < 2 {
            return Err(Failure::Refused(format!("points: expected at least 2, the ends, found {points}")));
        }
        Ok((Self::Even(points), points.saturating_pow(coordinates as u32)))
    }

    /// Columns of the grid.
    fn columns(&self) -> usize {
        match self {
            Self::Even(points) => *points,
            Self::At(_) => 1,
        }
    }

    /// The latents at the points, `[n, c, h, w]`.
    fn latents(&self, ends: &Array4<f32>) -> skipstone::Result<Array4<f32>> {
        let end = |i| ends.index_axis(Axis(0), i);
        match (self, ends.dim().0) {
            (Self::Even(points), _) => latent::between(ends, *points),
            (Self::At(at), 2) => Ok(latent::slerp(end(0), end(1), at[0])?.insert_axis(Axis(0))),
            // In the order of a whole square: first the column on both lines, then the row between them.
            (Self::At(at), _) => {
                let (top, bottom) = (latent::slerp(end(0), end(1), at[0])?, latent::slerp(end(2), end(3), at[0])?);
                Ok(latent::slerp(top.view(), bottom.view(), at[1])?.insert_axis(Axis(0)))
            }
        }
    }
}

impl WorkRequest for InterpolateRequest {
    type Work = InterpolateWork;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn check(self, context: Context, images: Option<SourceImages>) -> Result<InterpolateWork, Failure> {
        let (ends, files) = match images {
            Some(SourceImages { x0, files }) => (Ends::Images(x0), files),
            None => (Ends::Seeds(self.seeds.clone()), Vec::new()),
        };
        let (points, n) = Points::of(&self, ends.count())?;
        if n > context.limits.n {
            let message = format!("points: expected at most {} images in all, found {n}", context.limits.n);
            return Err(Failure::Refused(message));
        }
        context.check_images(n)?;
        context.check_steps(self.options.steps_of(context.model.timesteps))?;
        let generator = if let Ends::Images(_) = ends {
            // Clipping cannot be undone, so images are encoded without it unless the request asks for it.
            let generator = context.generator(&self.options.clone().unclipped(), 0, n)?;
            Method::Ddim.check(generator.plan())?;
            generator
        } else {
            context.generator(&self.options, 0, n)?
        };
        let is_single = matches!(points, Points::At(_));
        let command = (!is_single).then(|| self.command(&context.model.model_flag(), &files));
        Ok(InterpolateWork { model: context.model, ends, generator, points, n, command })
    }
}

impl InterpolateWork {
    /// Network calls that encoding the ends takes.
    fn encoding(&self) -> usize {
        if let Ends::Images(_) = self.ends { self.generator.plan().steps().len() } else { 0 }
    }

    /// The latents of the ends.
    fn latents(&self, run: &mut TaskRun<'_>) -> Result<Array4<f32>, Failure> {
        match &self.ends {
            Ends::Seeds(seeds) => Ok(latents_of(seeds, self.generator.shape())),
            Ends::Images(images) => run.encode(&self.generator, images),
        }
    }
}

impl Work for InterpolateWork {
    fn kind(&self) -> &'static str {
        "interpolate"
    }

    fn calls(&self) -> u64 {
        ((self.encoding() + self.generator.calls()) * self.generator.calls_per_step()) as u64
    }

    fn rows(&self) -> u64 {
        let rows = self.encoding() * self.ends.count() + self.generator.calls() * self.n;
        (rows * self.generator.calls_per_step()) as u64
    }

    fn plan(&self) -> Option<Plan> {
        let columns = self.points.columns();
        Some(Plan::Interpolate(InterpolatePlan {
            columns,
            rows: self.n / columns,
            n: self.n,
            tile: Tile::of(self.generator.shape()),
            times: self.generator.settings().times.clone(),
            calls: self.calls() as usize,
            command: self.command.clone(),
        }))
    }

    fn frame_bytes(&self) -> usize {
        4 * self.n * self.generator.shape().iter().product::<usize>()
    }

    fn run(self: Box<Self>, task: &Task, events: Option<&EventSink>) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let mut run = TaskRun::new(task, self.model.network());
        let ends = self.latents(&mut run)?;
        let latents = self.points.latents(&ends)?;
        let calls = self.calls() as usize;
        let inputs = Inputs { latents: Some(latents), ..Inputs::default() };
        let generator = self.generator.with_inputs(inputs, 0, self.n)?;
        let columns = self.points.columns();
        let x0 = run.generate(&generator, 0..self.n as u64, |call, progress| {
            if let Some(events) = events {
                events.step(call, progress.t, progress.x0, columns, begun.elapsed().as_secs_f64());
            }
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut texts = generator.settings().to_texts();
        texts.retain(|(key, _)| key != "seed");
        texts.push(match &self.points {
            Points::Even(points) => ("points".to_owned(), points.to_string()),
            Points::At(at) => ("at".to_owned(), format!("{at:?}")),
        });
        let tiles = x0.outer_iter().map(image_png).collect::<skipstone::Result<Vec<_>>>()?;
        Ok(Answer::Interpolation(Interpolation {
            png: grid_png(&x0, columns, &texts)?,
            columns,
            rows: self.n / columns,
            tiles,
            calls,
            seconds,
            model: self.model.id.clone(),
            command: self.command.clone(),
        }))
    }
}
