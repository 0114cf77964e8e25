//! From one image to another through their latents, as `skipstone interpolate` does it.

use std::time::Instant;

use ndarray::{Array4, Axis};
use skipstone::math::latent;
use skipstone::math::noise::latents_of;
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::inversion::Method;

use super::context::Context;
use super::request::{SourceImages, WorkKind};
use super::task_run::TaskRun;
use crate::api::{
    Answer, ApiRequest, InterpolateFields, InterpolatePlan, Interpolation, Plan, Tile, grid_png, image_png,
};
use crate::core::{Failure, Work};

/// The ends to interpolate between.
enum Ends {
    /// The images that these seeds make.
    Seeds(Vec<u64>),
    /// Images to be encoded first, `[2 or 4, c, h, w]`.
    Images(Array4<f32>),
}

impl Ends {
    fn count(&self) -> usize {
        match self {
            Self::Seeds(seeds) => seeds.len(),
            Self::Images(images) => images.dim().0,
        }
    }

    /// Their latents, `[n, c, h, w]`.
    fn latents(&self, generator: &Generator, run: &mut TaskRun<'_>) -> Result<Array4<f32>, Failure> {
        match self {
            Self::Seeds(seeds) => Ok(latents_of(seeds, generator.shape())),
            Self::Images(images) => run.encode(generator, images),
        }
    }
}

/// The points to make images at.
enum Points {
    /// This many, evenly, on a line or on each side of a square.
    Even(usize),
    /// A single point: λ on a line, or column and row in a square.
    At(Vec<f64>),
}

impl Points {
    /// The points of a request between this many ends, and the number of points.
    fn of(own: &InterpolateFields, ends: usize) -> Result<(Self, usize), Failure> {
        let coordinates = match ends {
            2 => 1,
            4 => 2,
            found => {
                let message = format!("seeds: expected two ends (a line) or four (a square), found {found}");
                return Err(Failure::Refused(message));
            }
        };
        if let Some(at) = &own.at {
            if at.len() != coordinates || at.iter().any(|at| !(0.0..=1.0).contains(at)) {
                let message = format!("at: expected {coordinates} number(s) from 0 to 1 for {ends} ends, found {at:?}");
                return Err(Failure::Refused(message));
            }
            return Ok((Self::At(at.clone()), 1));
        }
        let points = own.points;
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
            // As in a whole square: first the column on both lines, then the row between them.
            (Self::At(at), _) => {
                let (top, bottom) = (latent::slerp(end(0), end(1), at[0])?, latent::slerp(end(2), end(3), at[0])?);
                Ok(latent::slerp(top.view(), bottom.view(), at[1])?.insert_axis(Axis(0)))
            }
        }
    }
}

impl WorkKind for InterpolateFields {
    fn check(request: ApiRequest<Self>, context: Context, images: Option<SourceImages>) -> Result<Work, Failure> {
        let (ends, files) = match images {
            Some(SourceImages { x0, files }) => (Ends::Images(x0), files),
            None => (Ends::Seeds(request.own.seeds.clone()), Vec::new()),
        };
        let (points, n) = Points::of(&request.own, ends.count())?;
        if n > context.limits.n {
            let message = format!("points: expected at most {} images in all, found {n}", context.limits.n);
            return Err(Failure::Refused(message));
        }
        context.check_images(n)?;
        context.check_steps_of(&request.options)?;
        let (generator, encoding) = if let Ends::Images(_) = ends {
            // Clipping cannot be undone, so images are encoded without it unless the request asks for it.
            let generator = context.generator(&request.options.clone().unclipped(), 0, n)?;
            Method::Ddim.check(generator.plan())?;
            let encoding = generator.encoding_evaluations();
            (generator, encoding)
        } else {
            (context.generator(&request.options, 0, n)?, 0)
        };
        generator.settings().one_class("class")?;
        let is_single = matches!(points, Points::At(_));
        let model = context.model.clone();
        let command = (!is_single).then(|| request.command(&model.model_flag(), &files));
        let decoding = generator.evaluations();
        let (calls, all_rows) = (encoding + decoding, encoding * ends.count() + decoding * n);
        let frame_bytes = 4 * n * generator.shape().iter().product::<usize>();
        let columns = points.columns();
        let rows = n / columns;
        let plan = InterpolatePlan {
            columns,
            rows,
            n,
            tile: Tile::of(generator.shape()),
            times: generator.settings().times.clone(),
            calls,
            command: command.clone(),
        };
        let work = context.work::<Self>((calls, all_rows), move |task, events| {
            let begun = Instant::now();
            let mut run = TaskRun::new(task, model.network());
            let latents = points.latents(&ends.latents(&generator, &mut run)?)?;
            let inputs = Inputs { latents: Some(latents), ..Inputs::default() };
            let generator = generator.with_inputs(inputs, 0, n)?;
            let x0 = run.generate(&generator, 0..n as u64, |call, progress| {
                if let Some(events) = events {
                    events.step(call, progress.t, progress.x0, columns, begun.elapsed().as_secs_f64());
                }
            })?;
            let seconds = begun.elapsed().as_secs_f64();
            let mut texts = generator.settings().to_texts();
            texts.retain(|(key, _)| key != "seed");
            texts.push(match &points {
                Points::Even(points) => ("points".to_owned(), points.to_string()),
                Points::At(at) => ("at".to_owned(), format!("{at:?}")),
            });
            let png = grid_png(&x0, columns, &texts)?;
            let tiles = x0.outer_iter().map(image_png).collect::<skipstone::Result<Vec<_>>>()?;
            let model = model.id.clone();
            Ok(Answer::Interpolation(Interpolation { png, columns, rows, tiles, calls, seconds, model, command }))
        });
        Ok(Work { plan: Some(Plan::Interpolate(plan)), frame_bytes, ..work })
    }
}
