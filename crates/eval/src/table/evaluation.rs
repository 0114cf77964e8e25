//! From the options of a cell to its row: finding, drawing and scoring its images.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use ndarray::{Array2, Array4, Axis, concatenate};
use sha2::{Digest, Sha256};
use skipstone::error::{Error, Result};
use skipstone::io::checkpoint::Model;
use skipstone::io::hex::hex;
use skipstone::math::latent::{Distance, SQUARE, distance};
use skipstone::math::noise::initial_latent;
use skipstone::sampling::generate::{Generator, Inputs, Settings, digest, stated};
use skipstone::sampling::sampler::Plan;

use super::cell::Cell;
use super::draw::{Drawn, draw};
use super::pictures;
use super::reference::{features_of, network_values};
use super::results::Results;
use super::row::Row;
use super::samples::Samples;
use super::score::{Judge, MOST_QUERIES, Scores};
use super::variance::{PixelSums, Repeats, variance_within};
use crate::FeatureNetwork;

/// Most images of one cell.
const MOST_IMAGES: u64 = 100_000_000;

/// The settings that the cells of an evaluation share.
#[derive(Debug)]
pub struct Evaluation {
    root: PathBuf,
    images: Range<u64>,
    repeats: Option<Repeats>,
    /// x_T of the first images, which are drawn repeatedly.
    latents: Array4<f32>,
    latents_digest: String,
    shape: [usize; 3],
    /// The kind of the model's weights.
    weights: String,
}

/// The settings and the plan of a cell, from [`Settings::resolve`].
pub type Run = (Settings, Plan);

impl Evaluation {
    /// An evaluation of `model` in the folder `root`, with `n` images of each cell from `first` on and one `seed`.
    ///
    /// # Errors
    /// There are fewer than two images or more than 100 million, or their indices exceed 64 bits.
    pub fn new(
        root: &Path,
        model: &Model,
        (first, n): (u64, u64),
        seed: u64,
        repeats: Option<Repeats>,
    ) -> Result<Self> {
        if !(2..=MOST_IMAGES).contains(&n) {
            let message = format!("n: expected at least 2 images to score and at most {MOST_IMAGES}, found {n}");
            return Err(Error::argument(message));
        }
        let end = first.checked_add(n);
        let images = first..end.ok_or_else(|| Error::argument("first: first + n does not fit into 64 bits"))?;
        let [height, width] = model.config.sample_size;
        let shape = [model.config.in_channels, height, width];
        let repeats = repeats.map(|repeats| Repeats { latents: repeats.latents.min(n), ..repeats });
        let latents = repeats.map_or(0, |repeats| repeats.latents) as usize;
        let latents = initial_latent(seed, images.start, latents, shape);
        let latents_digest = digest(latents.view());
        let weights = model.weights.to_string();
        Ok(Self { root: root.to_path_buf(), images, repeats, latents, latents_digest, shape, weights })
    }

    /// The folder of the evaluation.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the samples.
    fn folder(&self) -> PathBuf {
        self.root.join("samples")
    }

    /// Channels, height and width of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The kind of the model's weights: `ema`, `raw` or `unspecified`.
    pub fn weights(&self) -> &str {
        &self.weights
    }

    /// The images of a cell.
    pub fn images(&self) -> Range<u64> {
        self.images.clone()
    }

    /// The runs of a cell with their images: the cell's own run, and runs that repeat its first latents with other noise, each
    /// with its own seed.
    fn runs(&self, (settings, plan): &Run) -> Vec<(Settings, Range<u64>)> {
        let mut runs = vec![(settings.clone(), self.images())];
        let Some(repeats) = self.repeats.filter(|_| !plan.is_deterministic()) else { return runs };
        for draw in 1..repeats.draws {
            let seed = settings.seed.wrapping_add(draw);
            let latents = Some(self.latents_digest.clone());
            let range = self.images.start..self.images.start + repeats.latents;
            runs.push((Settings { seed, latents, ..settings.clone() }, range));
        }
        runs
    }

    /// The number of images in `part` that a cell lacks, and the damaged files.
    ///
    /// # Errors
    /// As [`Samples::open`].
    pub fn missing(&self, run: &Run, part: &Range<u64>) -> Result<(u64, Vec<Error>)> {
        let (mut missing, mut damaged) = (0, Vec::new());
        for (settings, range) in self.runs(run) {
            let mut samples = Samples::open(&self.folder(), &settings, self.shape)?;
            missing += samples.missing(common(&range, part)).iter().map(|gap| gap.end - gap.start).sum::<u64>();
            damaged.append(&mut samples.take_damaged());
        }
        Ok((missing, damaged))
    }

    /// The images in `part` that a cell lacks, as ranges.
    ///
    /// # Errors
    /// As [`Samples::open`].
    pub fn gaps(&self, run: &Run, part: &Range<u64>) -> Result<Vec<Range<u64>>> {
        let mut gaps = Vec::new();
        for (settings, range) in self.runs(run) {
            gaps.extend(Samples::open(&self.folder(), &settings, self.shape)?.missing(common(&range, part)));
        }
        Ok(gaps)
    }

    /// Removes damaged files, then draws and keeps the images in `part` that a cell lacks. Returns the generator for the next
    /// cell.
    ///
    /// # Errors
    /// As [`draw()`].
    pub fn draw(
        &self,
        mut generator: Generator,
        run: &Run,
        part: &Range<u64>,
        batch: usize,
        observer: &mut dyn FnMut(Drawn) -> ControlFlow<()>,
    ) -> Result<Generator> {
        for (settings, range) in self.runs(run) {
            let mut samples = Samples::open(&self.folder(), &settings, self.shape)?;
            samples.repair()?;
            let wanted = common(&range, part);
            if samples.missing(wanted.clone()).is_empty() {
                continue;
            }
            let n = (range.end - range.start) as usize;
            let latents = settings.latents.is_some().then(|| self.latents.clone());
            let inputs = Inputs { latents, ..Inputs::default() };
            generator = generator.with_inputs(Inputs::default(), range.start, n)?;
            generator = generator.with_run((settings, run.1.clone()), n)?.with_inputs(inputs, range.start, n)?;
            draw(&generator, &mut samples, wanted, batch, observer)?;
        }
        Ok(generator)
    }

    /// Scores a cell whose images exist and took `calls` network calls each. `seen` is told how many further images are done
    /// and can stop the work.
    ///
    /// If `known` already has the scores of these pixels against this reference, they are used. Either way there are
    /// pictures of the samples and of the nearest training images.
    ///
    /// # Errors
    /// An image is missing, or the feature network refuses the images.
    pub fn score(
        &self,
        cell: &Cell,
        run: &Run,
        calls: usize,
        judge: &Judge,
        known: &Results,
        seen: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Row> {
        let samples = Samples::open(&self.folder(), &run.0, self.shape)?;
        let (mut hash, mut sums) = (Sha256::new(), PixelSums::default());
        samples.read(self.images(), &mut |images| {
            hash.update(images.as_slice().expect("made in standard layout"));
            sums.add(images.view());
            Ok(())
        })?;
        let mut row = self.row(cell, run, calls, judge);
        row.samples = hex(&hash.finalize());
        row.variance = sums.variance().unwrap_or(0.0);
        row.latent_variance = self.latent_variance(run)?.map(|within| share(within, row.variance));
        (row.seconds, row.machines) = samples.effort(&self.images());
        row.name = format!("{}-{}", samples.label(), row.place());

        let folder = self.root.join("pictures");
        pictures::write_samples(&folder, &row, &self.first(&samples, pictures::count(self.shape))?)?;
        let old = known.rows().iter().find(|old| old.has_scores_of(&row));
        if let Some(old) = old.filter(|old| pictures::has_nearest(&folder, old)) {
            row.take_scores(old);
            return Ok(row);
        }
        let Judge { network, reference, floor } = judge;
        let features = self.features(&samples, &**network, seen)?;
        let queries = self.first(&samples, MOST_QUERIES)?;
        let scores = Scores::of(reference, &**network, &features, queries.view())?;
        pictures::write_nearest(&folder, &row, &queries, &scores.neighbours, reference.images())?;
        row.set_scores(&scores, floor);
        Ok(row)
    }

    /// The features of all images of a cell.
    fn features(
        &self,
        samples: &Samples,
        network: &dyn FeatureNetwork,
        seen: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Array2<f32>> {
        let mut parts = Vec::new();
        samples.read(self.images(), &mut |images| {
            parts.push(features_of(network, images.view(), seen)?);
            Ok(())
        })?;
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        Ok(concatenate(Axis(0), &views).expect("rows of one length"))
    }

    /// The distance between the first 1,000 images of two cells, also over means of 4 × 4 pixels.
    ///
    /// # Errors
    /// An image is missing.
    pub fn distance(&self, a: &Run, b: &Run) -> Result<Distance> {
        let [a, b] = [a, b].map(|(settings, _)| {
            let samples = Samples::open(&self.folder(), settings, self.shape)?;
            Ok::<_, Error>(network_values(self.first(&samples, MOST_QUERIES)?.view()))
        });
        distance(&a?, &b?, SQUARE)
    }

    /// The first images of a cell, at most `most`.
    fn first(&self, samples: &Samples, most: usize) -> Result<Array4<u8>> {
        let n = (self.images.end - self.images.start).min(most as u64);
        samples.all(self.images.start..self.images.start + n)
    }

    /// The variance of a pixel between images of one latent; `None` if it is not measured.
    fn latent_variance(&self, run: &Run) -> Result<Option<f64>> {
        if self.repeats.is_none() {
            return Ok(None);
        }
        let runs = self.runs(run);
        let Some((_, range)) = runs.get(1) else { return Ok(Some(0.0)) };
        let draw =
            |(settings, _): &(Settings, _)| Samples::open(&self.folder(), settings, self.shape)?.all(range.clone());
        let draws = runs.iter().map(draw).collect::<Result<Vec<_>>>()?;
        variance_within(&draws).map(Some)
    }

    /// The row without the values that come from the images.
    fn row(&self, cell: &Cell, (settings, _): &Run, calls: usize, Judge { network, reference, floor }: &Judge) -> Row {
        let n = self.images.end - self.images.start;
        let real = reference.images();
        let options = settings.to_json();
        let mut row = Row {
            steps: cell.steps,
            eta: cell.noise.clone(),
            spacing: settings.spacing.as_ref().map(ToString::to_string).unwrap_or_default(),
            solver: settings.solver.to_string(),
            clip: settings.clip.to_string(),
            calls,
            n,
            features: reference.features().to_owned(),
            dimensions: network.dimensions(),
            repeats: self.repeats.map(|repeats| repeats.to_string()),
            first: self.images.start,
            seed: settings.seed,
            arithmetic: settings.precision.to_string(),
            class: stated(&options, "class"),
            guidance: settings.guidance,
            guidance_interval: stated(&options, "guidance_interval"),
            guide: stated(&options, "guide"),
            restart: stated(&options, "restart"),
            final_level: stated(&options, "final_level").unwrap_or_default(),
            calibration: settings.calibration.clone(),
            size: self.shape.map(|length| length.to_string()).join("x"),
            resized_from: real.original_size().map(str::to_owned),
            model: settings.model.clone(),
            process: settings.process.clone(),
            weights: self.weights.clone(),
            data: real.name().to_owned(),
            data_digest: real.digest().to_owned(),
            train: real.train().dim().0,
            floor_n: reference.floor_n(n as usize),
            halves: real.are_halves(),
            program: concat!("skipstone ", env!("CARGO_PKG_VERSION")).to_owned(),
            options,
            ..Row::default()
        };
        row.set_scores(floor, floor);
        row
    }
}

/// The intersection of two ranges; empty if they share nothing.
fn common(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// `part / whole`, or 0 if the whole is 0.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
