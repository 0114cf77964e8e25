//! Hugging Face image data sets in Parquet: a column of `{bytes, path}` with encoded images, and perhaps one of classes.
//!
//! The images lie in compressed pages. They are copied once, still encoded, into a temporary file without a name, from
//! which any image can be read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::Dataset;
use super::encoded::{EncodedSource, Entry, MAX_IMAGE};
use super::fit::Fit;
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::blob;

/// Rows read at a time.
const ROWS: usize = 64;
/// The most a page may grow when it is unpacked: more than Snappy and deflate do with image files.
const MAX_RATIO: i64 = 1 << 10;
/// Usual names of the columns, first those that are preferred.
const IMAGES: [&str; 6] = ["image", "img", "images", "jpg", "png", "webp"];
const LABELS: [&str; 5] = ["label", "labels", "fine_label", "class", "cls"];

/// The data set in these files.
///
/// # Errors
/// A file is missing, damaged or no Parquet, has no column of images, or holds only paths in place of images.
pub(super) fn read_parquet(name: String, paths: &[PathBuf], fit: &Fit) -> Result<Dataset> {
    fit.validate()?;
    let spool = tempfile::tempfile().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let mut copy =
        Copy { out: BufWriter::new(spool), at: 0, entries: Vec::new(), labels: Some(Vec::new()), names: Vec::new() };
    for path in paths {
        // The decoder is other people's code; a panic in it is an error of the file.
        let read = catch_unwind(AssertUnwindSafe(|| copy.file(path)));
        let read = read.unwrap_or_else(|_| Err(Error::data("damaged: the Parquet decoder gave up")));
        read.map_err(|e| e.in_file(path))?;
    }
    let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
    if copy.entries.is_empty() {
        return Err(Error::new(Kind::NotFound, "the table has no rows").in_file(first));
    }
    let spool = copy.out.into_inner().map_err(|e| Error::io(std::env::temp_dir(), e.into_error()))?;
    let files = vec![(first.display().to_string(), blob::temporary(first, spool)?)];
    let source = EncodedSource::new(files, copy.entries, *fit, format!("{paths:?}"));
    let names = if copy.labels.is_some() { copy.names } else { Vec::new() };
    let data = Dataset::streamed(name, Arc::new(source), copy.labels, names)?;
    let megabytes = copy.at.div_ceil(1_000_000);
    Ok(data.with_note(format!("{megabytes} MB of images were copied to a temporary file")))
}

/// The copy in progress.
struct Copy {
    out: BufWriter<File>,
    at: u64,
    entries: Vec<Entry>,
    /// `None` once a file has no classes.
    labels: Option<Vec<u32>>,
    names: Vec<String>,
}

fn broken(error: parquet::errors::ParquetError) -> Error {
    Error::data(format!("unreadable Parquet: {error}")).caused_by(error)
}

impl Copy {
    fn file(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let reader = SerializedFileReader::new(file).map_err(broken)?;
        let (images, labels) = columns(reader.metadata())?;
        check(reader.metadata(), &[Some(images), labels], length)?;
        if self.names.is_empty() {
            self.names = class_names(reader.metadata(), labels).unwrap_or_default();
        }
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group).map_err(broken)?;
            let before = self.entries.len();
            self.images(group.get_column_reader(images).map_err(broken)?)?;
            match (labels, &mut self.labels) {
                (Some(column), Some(all)) => {
                    read_labels(group.get_column_reader(column).map_err(broken)?, all)?;
                    let (rows, found) = (self.entries.len() - before, all.len() - before);
                    if rows != found {
                        return Err(Error::data(format!("{rows} images, but {found} classes")));
                    }
                }
                _ => self.labels = None,
            }
        }
        Ok(())
    }

    fn images(&mut self, column: ColumnReader) -> Result<()> {
        let ColumnReader::ByteArrayColumnReader(mut column) = column else {
            return Err(Error::data("the column of images holds no bytes"));
        };
        loop {
            let (mut levels, mut values) = (Vec::new(), Vec::<ByteArray>::new());
            let (rows, found, _) = column.read_records(ROWS, Some(&mut levels), None, &mut values).map_err(broken)?;
            if rows == 0 {
                return Ok(());
            }
            if found < rows {
                let row = self.entries.len();
                let message =
                    format!("one of rows {row} to {} has no image bytes; paths are not followed", row + rows - 1);
                return Err(Error::data(message));
            }
            for value in values {
                let bytes = value.data();
                if bytes.is_empty() || bytes.len() as u64 > MAX_IMAGE {
                    let (row, len) = (self.entries.len(), bytes.len());
                    return Err(Error::data(format!("row {row}: an image of {len} bytes; expected 1 to {MAX_IMAGE}")));
                }
                self.out.write_all(bytes).map_err(|e| Error::io(std::env::temp_dir(), e))?;
                self.entries.push(Entry { file: 0, len: bytes.len() as u32, start: self.at });
                self.at += bytes.len() as u64;
            }
        }
    }
}

/// Reads a column of classes to its end.
fn read_labels(column: ColumnReader, labels: &mut Vec<u32>) -> Result<()> {
    macro_rules! all {
        ($column:ident) => {
            loop {
                let (mut levels, mut values) = (Vec::new(), Vec::new());
                let read = $column.read_records(ROWS, Some(&mut levels), None, &mut values);
                let (rows, found, _) = read.map_err(broken)?;
                if rows == 0 {
                    return Ok(());
                }
                let whole: Option<Vec<u32>> = values.iter().map(|&value| u32::try_from(value).ok()).collect();
                match whole {
                    Some(values) if found == rows => labels.extend(values),
                    _ => return Err(Error::data(format!("a class after row {} is missing or negative", labels.len()))),
                }
            }
        };
    }
    match column {
        ColumnReader::Int32ColumnReader(mut column) => all!(column),
        ColumnReader::Int64ColumnReader(mut column) => all!(column),
        _ => Err(Error::data("the column of classes holds no whole numbers")),
    }
}

/// The columns of images and of classes.
fn columns(table: &ParquetMetaData) -> Result<(usize, Option<usize>)> {
    let columns = table.file_metadata().schema_descr().columns();
    let paths: Vec<String> = columns.iter().map(|column| column.path().string()).collect();
    let flat =
        |i: usize, kinds: &[Type]| columns[i].max_rep_level() == 0 && kinds.contains(&columns[i].physical_type());
    let images = (0..columns.len()).filter(|&i| flat(i, &[Type::BYTE_ARRAY]));
    let usual = |i: usize| IMAGES.iter().position(|name| paths[i] == *name || paths[i] == format!("{name}.bytes"));
    let mut found: Vec<usize> = images.filter(|&i| usual(i).is_some() || paths[i].ends_with(".bytes")).collect();
    found.sort_by_key(|&i| usual(i).unwrap_or(IMAGES.len()));
    let Some(&images) = found.first() else {
        let paths = paths.join(", ");
        return Err(Error::data(format!("no column of images, such as image.bytes; the columns are {paths}")));
    };
    let label = |name: &&str| (0..columns.len()).find(|&i| paths[i] == **name && flat(i, &[Type::INT32, Type::INT64]));
    Ok((images, LABELS.iter().find_map(label)))
}

/// Checks that the pages of these columns lie in the file and cannot unpack to much more than they are.
fn check(table: &ParquetMetaData, columns: &[Option<usize>], length: u64) -> Result<()> {
    for (i, group) in table.row_groups().iter().enumerate() {
        for &column in columns.iter().flatten() {
            let bad = |what: &str| Error::data(format!("row group {i}, column {column}: {what}"));
            let chunk = group.columns().get(column).ok_or_else(|| bad("missing"))?;
            let (packed, whole) = (chunk.compressed_size(), chunk.uncompressed_size());
            let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            let end = u64::try_from(start).ok().zip(u64::try_from(packed).ok()).and_then(|(a, b)| a.checked_add(b));
            if end.is_none_or(|end| end > length) {
                return Err(bad("it reaches beyond the end of the file"));
            }
            if whole < 0 || whole / MAX_RATIO > packed {
                return Err(bad(&format!("{packed} bytes that claim to unpack to {whole}")));
            }
        }
    }
    Ok(())
}

/// The names of the classes that the library `datasets` keeps beside the table.
fn class_names(table: &ParquetMetaData, column: Option<usize>) -> Option<Vec<String>> {
    let file = table.file_metadata();
    let label = file.schema_descr().columns().get(column?)?.path().string();
    let text = file.key_value_metadata()?.iter().find(|pair| pair.key == "huggingface")?.value.as_ref()?;
    let info: serde_json::Value = serde_json::from_str(text).ok()?;
    let names = info["info"]["features"][&label]["names"].as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}
