//! From one image to another through the space of latents: what `skipstone interpolate` does.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array4, Axis, concatenate};
use skipstone::generate::{Generator, Inputs};
use skipstone::inversion::Latents;
use skipstone::latent;
use skipstone::noise::initial_latent;

use super::run::Course;
use super::{Answer, Work};
use crate::api::{InterpolateRequest, Interpolation, grid_png, image_png};
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
    /// Points of a line or of a side.
    points: usize,
    n: usize,
    command: String,
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
        let points = request.points();
        if points < 2 {
            return Err(Failure::Refused(format!("points: expected at least 2, the ends, found {points}")));
        }
        let n = match ends.count() {
            2 => points,
            4 => points.saturating_mul(points),
            found => {
                let message = format!("seeds: expected two ends (a line) or four (a square), found {found}");
                return Err(Failure::Refused(message));
            }
        };
        if n > limits.n {
            let message = format!("points: expected at most {} images in all, found {n}", limits.n);
            return Err(Failure::Refused(message));
        }
        limits.check_images(n, served.shape())?;
        limits.check_steps(request.steps())?;
        let from_images = matches!(ends, Ends::Images(_));
        let generator = served.generator(&request.request(from_images)?, Inputs::default(), (0, n), cancel)?;
        let command = match &ends {
            Ends::Seeds(seeds) => request.command(&served.words(), &seeds_words(seeds)),
            Ends::Images(_) => request.command(&served.words(), &format!("--images {}", files.join(","))),
        };
        Ok(Self { served, ends, generator, points, n, command })
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

    fn run(self: Box<Self>, task: &Task) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let mut course = Course::new(task, self.served.network());
        let ends = self.latents(&mut course)?;
        let end = |i| ends.index_axis(Axis(0), i);
        let latents = match ends.dim().0 {
            2 => latent::line(end(0), end(1), self.points)?,
            _ => latent::grid([end(0), end(1), end(2), end(3)], self.points)?,
        };
        let calls = self.calls() as usize;
        let inputs = Inputs { latents: Some(latents), ..Inputs::default() };
        let generator = self.generator.with_inputs(inputs, 0, self.n)?;
        let x0 = course.generate(&generator, 0..self.n as u64, |_, _| ())?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut texts = generator.settings().to_texts();
        texts.retain(|(key, _)| key != "seed");
        texts.push(("points".to_owned(), self.points.to_string()));
        let tiles = x0.outer_iter().map(image_png).collect::<skipstone::Result<Vec<_>>>()?;
        Ok(Answer::Interpolation(Interpolation {
            png: grid_png(&x0, self.points, &texts)?,
            columns: self.points,
            rows: self.n / self.points,
            tiles,
            calls,
            seconds,
            model: self.served.id.clone(),
            command: self.command.clone(),
        }))
    }
}
