//! Which tile is fastest for a product, measured on the device.
//!
//! The tiling changes no result ([`tile`](crate::tile)), so the choice may depend on the number of images, and on chance.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::buffer::{Buffer, Element};
use crate::device::Gpu;
use crate::error::Result;
use crate::tile::Tiling;

/// Sums of a unit in both directions, each 1, 2 or 4.
pub type Tile = [usize; 2];

/// What [`Tuning`] does with a measured tile.
pub type Keep = Box<dyn FnMut(&str, Tile) + Send>;

/// How a device chooses its tiles.
#[derive(Default)]
pub struct Tuning {
    /// The tiles of some products, by name. Others follow from the product's shape.
    pub known: BTreeMap<String, Tile>,
    /// Is given the tile of each product that is not known: then it is measured when the product is first computed.
    pub keep: Option<Keep>,
}

/// A device's choices so far.
#[derive(Default)]
pub(crate) struct Tuner {
    /// `None` until somebody tells.
    tuning: Option<Tuning>,
    chosen: HashMap<Product, Tile>,
}

/// What distinguishes a product from others when its tile is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub kind: &'static str,
    /// Rows of one image's result.
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    /// Number of images; similar numbers are taken for the same.
    pub images: usize,
    /// What else is computed.
    pub fused: &'static str,
    pub element: Element,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, rows, columns, depth, images, fused, element } = self;
        let element = element.name();
        write!(f, "{kind}{fused} {images} x [{rows}, {depth}] x [{depth}, {columns}] {element}")
    }
}

/// How long a measurement takes at least, so that the wait for the device does not decide it.
const LONG: Duration = Duration::from_millis(2);

/// Launches of one measurement at most.
const MOST: u32 = 64;

/// A tile replaces the one that follows from the shape if it takes this part of its time at most.
const FASTER: f64 = 0.97;

impl Gpu {
    /// Tells how the device is to choose its tiles from now on. Without this call, they follow from the products' shapes.
    ///
    /// ```
    /// # use skipstone_gpu::{Api, Gpu, Tuning, adapters};
    /// # if let Some(adapter) = adapters(Api::Any).first() {
    /// let gpu = Gpu::open(adapter)?;
    /// let keep = Box::new(|product: &str, tile: [usize; 2]| println!("{product}: {tile:?}"));
    /// gpu.tune(Tuning { keep: Some(keep), ..Tuning::default() });
    /// # }
    /// # Ok::<(), skipstone_gpu::Error>(())
    /// ```
    pub fn tune(&self, tuning: Tuning) {
        *self.tuner() = Tuner { tuning: Some(tuning), chosen: HashMap::new() };
    }

    /// Whether the device was told how to choose its tiles.
    pub fn is_tuned(&self) -> bool {
        self.tuner().tuning.is_some()
    }

    fn tuner(&self) -> std::sync::MutexGuard<'_, Tuner> {
        self.tuner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tiling of a product, `guess` where nothing else is known. `launch` computes the product; where it writes to memory
    /// that matters, it writes to a buffer of `words` elements instead.
    pub(crate) fn tiling(
        &self,
        product: Product,
        guess: Tiling,
        words: usize,
        launch: impl Fn(Tiling, &Buffer),
    ) -> Tiling {
        let product = Product { images: product.images.next_power_of_two(), ..product };
        let mut tuner = self.tuner();
        let [rows, columns] = match tuner.chosen.get(&product) {
            Some(tile) => *tile,
            None => {
                let tile = tuner.choose(self, product, guess, words, launch);
                tuner.chosen.insert(product, tile);
                tile
            }
        };
        Tiling { rows, columns, ..guess }
    }

    /// The fastest of some tiles.
    fn fastest(&self, guess: Tiling, words: usize, launch: impl Fn(Tiling, &Buffer)) -> Result<Tile> {
        let scratch = self.reserve(words)?;
        let seconds = |[rows, columns]: Tile| -> Result<f64> {
            let tiling = Tiling { rows, columns, ..guess };
            launch(tiling, &scratch); // compiles
            self.wait()?;
            let mut times = 1;
            loop {
                let begun = Instant::now();
                (0..times).for_each(|_| launch(tiling, &scratch));
                self.wait()?;
                let taken = begun.elapsed();
                if taken >= LONG || times >= MOST {
                    return Ok(taken.as_secs_f64() / f64::from(times));
                }
                times *= 4;
            }
        };
        let first = [guess.rows, guess.columns];
        let mut best = (first, FASTER * seconds(first)?);
        for tile in neighbours(first) {
            let taken = seconds(tile)?;
            if taken < best.1 {
                best = (tile, taken);
            }
        }
        Ok(best.0)
    }
}

impl Tuner {
    fn choose(
        &mut self,
        gpu: &Gpu,
        product: Product,
        guess: Tiling,
        words: usize,
        launch: impl Fn(Tiling, &Buffer),
    ) -> Tile {
        let guessed = [guess.rows, guess.columns];
        let Some(Tuning { known, keep }) = &mut self.tuning else { return guessed };
        let name = product.to_string();
        let known = known.get(&name).copied().filter(|tile| tile.iter().all(|sums| [1, 2, 4].contains(sums)));
        let Some(keep) = keep.as_mut().filter(|_| known.is_none()) else { return known.unwrap_or(guessed) };
        match gpu.fastest(guess, words, launch) {
            Ok(tile) => {
                keep(&name, tile);
                tile
            }
            // Too little memory to try, or a lost device, which shows when the result is read.
            Err(_) => guessed,
        }
    }
}

/// The tiles that are twice or half as large in one direction.
fn neighbours([rows, columns]: Tile) -> impl Iterator<Item = Tile> {
    let fits = |sums: usize| (1..=4).contains(&sums);
    let all = [[2 * rows, columns], [rows / 2, columns], [rows, 2 * columns], [rows, columns / 2]];
    all.into_iter().filter(move |tile| tile.iter().all(|sums| fits(*sums)))
}
