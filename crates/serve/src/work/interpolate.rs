//! From one image to another through the space of latents: what `skipstone interpolate` does.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array4, Axis, concatenate};
use skipstone::generate::{Generator, Inputs};
use skipstone::inversion::{Latents, Method};
use skipstone::latent;
use skipstone::noise::initial_latent;

use super::run::Course;
use super::{Answer, Plan, Show, Work};
use crate::api::{InterpolatePlan, InterpolateRequest, Interpolation, Tile, grid_png, image_png};
use crate::core::{Cancel, Failure, Served, Task};
use crate::limits::Limits;

/// What lies at the ends.
#[derive(Clone, Debug)]
pub enum Ends {
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
    served: Arc<Served>,
    ends: Ends,
    generator: Generator,
    place: Place,
    n: usize,
    command: Option<String>,
    show: Option<Show>,
}

/// Which points.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// So many on a line, or on each side of a square.
    Points(usize),
    /// One: λ of a line, or column and row of a square.
    At(Vec<f64>),
}

impl Place {
    /// What a request asks for between so many ends, and how many images that is.
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
        Ok((Self::Points(points), points.saturating_pow(coordinates as u32)))
    }

    /// Columns of the grid.
    fn columns(&self) -> usize {
        match self {
            Self::Points(points) => *points,
            Self::At(_) => 1,
        }
    }

    /// The latents there.
    fn latents(&self, ends: &Array4<f32>) -> skipstone::Result<Array4<f32>> {
        let end = |i| ends.index_axis(Axis(0), i);
        match (self, ends.dim().0) {
            (Self::Points(points), 2) => latent::line(end(0), end(1), *points),
            (Self::Points(points), _) => latent::grid([end(0), end(1), end(2), end(3)], *points),
            (Self::At(at), 2) => Ok(latent::slerp(end(0), end(1), at[0])?.insert_axis(Axis(0))),
            // As the square does it: the column on both lines first, then the row between.
            (Self::At(at), _) => {
                let (top, bottom) = (latent::slerp(end(0), end(1), at[0])?, latent::slerp(end(2), end(3), at[0])?);
                Ok(latent::slerp(top.view(), bottom.view(), at[1])?.insert_axis(Axis(0)))
            }
        }
    }
}

impl InterpolateWork {
    /// Checks a request to this model; `files` is what the command calls images.
    ///
    /// # Errors
    /// What is beyond the limits, or means nothing for the model.
    pub fn new(
        served: Arc<Served>,
        request: &InterpolateRequest,
        (ends, files): (Ends, &[&str]),
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let (place, n) = Place::of(request, ends.count())?;
        if n > limits.n {
            let message = format!("points: expected at most {} images in all, found {n}", limits.n);
            return Err(Failure::Refused(message));
        }
        limits.check_images(n, served.shape())?;
        limits.check_steps(request.options.steps_of(served.timesteps))?;
        // Nothing is clipped where images are encoded.
        let from_images = matches!(ends, Ends::Images(_));
        let options = if from_images { request.options.clone().unclipped() } else { request.options.clone() };
        let generator = served.generator(&options, Inputs::default(), (0, n), cancel)?;
        if from_images {
            Method::Ddim.check(generator.plan())?;
        }
        let ends_words = match &ends {
            Ends::Seeds(seeds) => seeds_words(seeds),
            Ends::Images(_) => format!("--images {}", files.join(",")),
        };
        let is_point = matches!(place, Place::At(_));
        let command = (!is_point).then(|| request.command(&served.words(), &ends_words));
        Ok(Self { served, ends, generator, place, n, command, show: None })
    }

    /// Network calls that encoding takes.
    fn encoding(&self) -> usize {
        if let Ends::Images(_) = self.ends { self.generator.plan().steps().len() } else { 0 }
    }

    /// The latents of the ends.
    fn latents(&self, course: &mut Course<'_>) -> Result<Array4<f32>, Failure> {
        let shape = self.generator.shape();
        match &self.ends {
            Ends::Seeds(seeds) => {
                let each: Vec<_> = seeds.iter().map(|&seed| initial_latent(seed, 0, 1, shape)).collect();
                let views: Vec<_> = each.iter().map(|x| x.view()).collect();
                concatenate(Axis(0), &views).map_err(|e| Failure::Internal(e.to_string()))
            }
            Ends::Images(images) => match course.encode(&self.generator, images)?.latents {
                Latents::One(x_t) => Ok(x_t),
                Latents::Pair(_) => Err(Failure::Internal("plain encoding gave pairs of latents".to_owned())),
            },
        }
    }
}

fn seeds_words(seeds: &[u64]) -> String {
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    format!("--seeds {}", seeds.join(","))
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
        let columns = self.place.columns();
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

    fn watch(&mut self, show: Show) {
        self.show = Some(show);
    }

    fn run(self: Box<Self>, task: &Task) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let mut course = Course::new(task, self.served.network());
        let ends = self.latents(&mut course)?;
        let latents = self.place.latents(&ends)?;
        let calls = self.calls() as usize;
        let inputs = Inputs { latents: Some(latents), ..Inputs::default() };
        let generator = self.generator.with_inputs(inputs, 0, self.n)?;
        let columns = self.place.columns();
        let x0 = course.generate(&generator, 0..self.n as u64, |call, progress| {
            if let Some(show) = &self.show {
                show.step(call, progress.t, progress.x0, columns, begun.elapsed().as_secs_f64());
            }
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut texts = generator.settings().to_texts();
        texts.retain(|(key, _)| key != "seed");
        texts.push(match &self.place {
            Place::Points(points) => ("points".to_owned(), points.to_string()),
            Place::At(at) => ("at".to_owned(), format!("{at:?}")),
        });
        let tiles = x0.outer_iter().map(image_png).collect::<skipstone::Result<Vec<_>>>()?;
        Ok(Answer::Interpolation(Interpolation {
            png: grid_png(&x0, columns, &texts)?,
            columns,
            rows: self.n / columns,
            tiles,
            calls,
            seconds,
            model: self.served.id.clone(),
            command: self.command.clone(),
        }))
    }
}
