use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::options::ClipName;
use super::png::{Png, Tile};
use super::sample::SampleRequest;

/// Default numbers of steps and η.
const STEPS: [usize; 4] = [5, 10, 20, 50];
const ETA: [f64; 3] = [0.0, 0.5, 1.0];
/// Default number of images of a cell.
const N: usize = 4;

/// The same latents under every number of steps and every η. In a query, lists are written `5,10,20`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CompareRequest {
    /// The model's id; the first of `/v1/models` unless given.
    pub model: Option<String>,
    /// Numbers of steps; 5, 10, 20, 50.
    #[serde(default, deserialize_with = "list")]
    #[schema(example = json!([5, 10]), min_items = 1)]
    #[param(value_type = Option<String>, pattern = "^[1-9][0-9]*(,[1-9][0-9]*)*$", example = "5,10")]
    pub steps: Option<Vec<usize>>,
    /// η of each column; 0, 0.5, 1.
    #[serde(default, deserialize_with = "list")]
    #[schema(example = json!([0.0, 1.0]), min_items = 1)]
    #[param(value_type = Option<String>, pattern = "^[0-9]+([.][0-9]+)?(,[0-9]+([.][0-9]+)?)*$", example = "0,1")]
    pub eta: Option<Vec<f64>>,
    /// Images of a cell; 4.
    #[schema(minimum = 1, example = 1)]
    #[param(minimum = 1)]
    pub n: Option<usize>,
    /// Seed of latents and noise; 0.
    pub seed: Option<u64>,
    /// Which of the model's times; the model's own, else linear.
    pub spacing: Option<String>,
    /// Class of the images, for a class-conditional model.
    pub class: Option<usize>,
    /// Weight of classifier-free guidance; needs `class`.
    pub guidance: Option<f64>,
    /// What becomes of predicted images outside the data's range; the model's own choice, else off.
    pub clip: Option<ClipName>,
}

/// Reads a list, or the text of one.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de> + FromStr>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    struct Numbers<T>(Vec<T>);
    struct Reader<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de> + FromStr> Visitor<'de> for Reader<T> {
        type Value = Numbers<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of numbers")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            let wrong = |word: &str| E::custom(format!("expected numbers between commas, found \"{word}\""));
            let parse = |word: &str| word.trim().parse().map_err(|_| wrong(word));
            text.split(',').map(parse).collect::<Result<_, _>>().map(Numbers)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut numbers = Vec::new();
            while let Some(number) = list.next_element()? {
                numbers.push(number);
            }
            Ok(Numbers(numbers))
        }
    }

    impl<'de, T: Deserialize<'de> + FromStr> Deserialize<'de> for Numbers<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Reader(PhantomData))
        }
    }

    Ok(Option::<Numbers<T>>::deserialize(deserializer)?.map(|Numbers(numbers)| numbers))
}

impl CompareRequest {
    /// Images of a cell.
    pub fn n(&self) -> usize {
        self.n.unwrap_or(N)
    }

    /// Numbers of steps.
    pub fn steps(&self) -> Vec<usize> {
        self.steps.clone().unwrap_or_else(|| STEPS.to_vec())
    }

    /// η of each column.
    pub fn etas(&self) -> Vec<f64> {
        self.eta.clone().unwrap_or_else(|| ETA.to_vec())
    }

    /// The request that makes a cell.
    pub fn sample(&self, steps: usize, eta: f64) -> SampleRequest {
        SampleRequest {
            model: self.model.clone(),
            n: Some(self.n()),
            steps: Some(steps),
            eta: Some(eta),
            spacing: self.spacing.clone(),
            seed: self.seed,
            class: self.class,
            guidance: self.guidance,
            clip: self.clip,
            ..SampleRequest::default()
        }
    }
}

/// Event `plan` of a comparison.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ComparePlan {
    /// Numbers of steps: the rows.
    pub steps: Vec<usize>,
    /// η: the columns.
    pub eta: Vec<f64>,
    /// Images of a cell.
    pub n: usize,
    /// Columns of the grid of a cell.
    pub columns: usize,
    /// Where an image lies in a grid.
    pub tile: Tile,
    /// Network calls in all, for each image.
    pub calls: usize,
}

/// All cells.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Comparison {
    /// Row by row: for each number of steps, each η. In a stream's `done` none: they have been sent.
    pub cells: Vec<Cell>,
    /// Columns of the grid of a cell.
    pub columns: usize,
    /// Images of a cell.
    pub n: usize,
    /// Network calls in all, for each image.
    pub calls: usize,
    /// The model's id.
    pub model: String,
    /// Seconds at work, without waiting.
    pub seconds: f64,
}

/// The images of one number of steps and one η; event `cell` of a stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Cell {
    /// Number of steps.
    pub steps: usize,
    /// η.
    pub eta: f64,
    /// The grid that the command line writes, pixel for pixel.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Network calls for each image.
    pub calls: usize,
    /// Seconds at work.
    pub seconds: f64,
    /// The command that makes the same picture.
    pub command: String,
}
