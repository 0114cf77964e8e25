//! Images for training and evaluation: data sets, their readers, and the order of an epoch.
//!
//! Named data sets, IDX files and folders are held in memory as bytes. Arrays, archives and tables are read image by image
//! from their files. A network sees x = byte/127.5 − 1, in −1..1, and arrays of other types by their [`ValueRange`].

mod array;
mod cifar;
mod dataset;
mod encoded;
mod fit;
mod folder;
mod idx;
mod order;
#[cfg(feature = "parquet")]
mod parquet;
mod photo;
mod shards;
mod source;
mod spec;
mod tar;

pub use array::{ArrayLayout, RecordedRange, ValueRange};
pub use dataset::{Dataset, Pick};
pub use fit::{Fit, WHITE};
pub use folder::{list_images, read_folder};
pub use idx::{read_images as read_idx_images, read_labels as read_idx_labels};
pub use order::{Epochs, Stream, flip, order};
pub use photo::{PictureLimits, decode_image, image_size, read_image};
pub use shards::shard_in;
pub use spec::{DataOptions, DataSpec, Split};

use ndarray::Array3;

use crate::io::image::from_byte;

/// Pixel bytes as network values: x = byte/127.5 − 1.
pub fn network_values(bytes: &Array3<u8>) -> Array3<f32> {
    bytes.mapv(from_byte)
}
