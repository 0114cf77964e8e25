//! The rows of a folder: the scores of every cell and how they were obtained.

use std::ops::Range;
use std::path::Path;

use serde_json::{Value, json};
use skipstone::error::{Error, Kind, Result};
use skipstone::io::files;
use skipstone::math::latent::Distance;
use skipstone::sampling::generate::Settings;

use super::row::{COLUMNS, Row};

/// The layout of `results.json`.
const FORMAT: u64 = 1;
/// Enough for ten thousand rows.
const MOST_BYTES: u64 = 1 << 27;

/// The rows of a folder, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results(Vec<Row>);

impl Results {
    /// The rows in `folder`; none if it has no `results.json`.
    ///
    /// # Errors
    /// The file is not a results file of this version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("results.json");
        let bytes = match files::read(&path, MOST_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == Kind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(e),
        };
        let parse = || {
            let mut value: Value = serde_json::from_slice(&bytes)?;
            if value["format"].as_u64() != Some(FORMAT) {
                return Err(<serde_json::Error as serde::de::Error>::custom(format!("expected format {FORMAT}")));
            }
            serde_json::from_value(value["rows"].take())
        };
        let rows = parse().map_err(|e| {
            let remedy = "remove it; the same command makes it again from the samples";
            Error::data(format!("not a results file of this version: {e}; {remedy}")).in_file(&path)
        })?;
        Ok(Self(rows))
    }

    /// Adds a row. It replaces the row with the same place, but keeps what only the old row has: a latent variance, and the distance
    /// of the same images to those of more steps.
    pub fn put(&mut self, mut row: Row) {
        let place = row.place();
        match self.0.iter_mut().find(|old| old.place() == place) {
            Some(old) => {
                if row.repeats.is_none() {
                    (row.repeats, row.latent_variance) = (old.repeats.take(), old.latent_variance);
                }
                if row.against.is_none() && row.samples == old.samples {
                    (row.coarse_rms, row.rms, row.against) = (old.coarse_rms, old.rms, old.against);
                }
                *old = row;
            }
            None => self.0.push(row),
        }
    }

    /// Records the distance between the images of a cell and those with `most` steps. Rows that have been compared with
    /// more steps before stay as they are.
    pub fn set_distance(&mut self, settings: &Settings, images: &Range<u64>, found: Distance, most: usize) {
        let options = settings.to_json();
        let same = |row: &Row| row.first == images.start && row.first + row.n == images.end && row.options == options;
        for row in self.0.iter_mut().filter(|row| same(row) && row.against.is_none_or(|other| other <= most)) {
            (row.coarse_rms, row.rms, row.against) = (Some(found.low), Some(found.full), Some(most));
        }
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        &self.0
    }

    /// Writes `results.json` and `results.csv`.
    ///
    /// # Errors
    /// As [`files::write_bytes`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = format!("{:#}\n", json!({"format": FORMAT, "rows": self.0}));
        files::write_bytes(&folder.join("results.json"), json.as_bytes())?;
        files::write_bytes(&folder.join("results.csv"), self.to_csv().as_bytes())
    }

    /// The rows as comma-separated values with a header (RFC 4180, but with line feeds).
    pub fn to_csv(&self) -> String {
        let mut csv = COLUMNS.join(",") + "\n";
        for row in &self.0 {
            csv += &(row.to_csv() + "\n");
        }
        csv
    }
}

#[cfg(test)]
mod tests {
    use skipstone::sampling::options::Noise;

    use super::super::row::tests::row;
    use super::*;

    #[test]
    fn rows_come_back_and_a_later_one_takes_the_place_of_its_like() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Results::read(folder.path()).unwrap(), Results::default());
        let mut results = Results::default();
        results.put(row(10, Noise::Eta(0.0), 20.0));
        results.put(row(10, Noise::Hat, 300.0));
        results.put(row(10, Noise::Eta(0.0), 19.0));
        let other = Row { n: 1000, ..row(10, Noise::Eta(0.0), 25.0) };
        results.put(other);
        // Latents that are not drawn from again keep their variance.
        let hat = Row { repeats: None, latent_variance: None, ..row(10, Noise::Hat, 300.0) };
        results.put(hat);
        assert_eq!(results.rows()[1], row(10, Noise::Hat, 300.0));
        // So does the distance to more steps, as long as the images are the same.
        let alone = || Row { coarse_rms: None, rms: None, against: None, ..row(10, Noise::Hat, 300.0) };
        results.put(alone());
        assert_eq!(results.rows()[1], row(10, Noise::Hat, 300.0));
        results.put(Row { samples: "others".to_owned(), ..alone() });
        assert_eq!(results.rows()[1].against, None);
        results.put(row(10, Noise::Hat, 300.0));
        let found: Vec<f64> = results.rows().iter().map(|row| row.frechet).collect();
        assert_eq!(found, [19.0, 300.0, 25.0]);
        results.write(folder.path()).unwrap();
        assert_eq!(Results::read(folder.path()).unwrap(), results);
        let bytes = files::read(&folder.path().join("results.json"), MOST_BYTES).unwrap();
        Results::read(folder.path()).unwrap().write(folder.path()).unwrap();
        assert_eq!(files::read(&folder.path().join("results.json"), MOST_BYTES).unwrap(), bytes);
    }

    #[test]
    fn csv_has_a_column_for_every_field_but_the_options_and_quotes_what_needs_it() {
        let mut results = Results::default();
        results.put(row(10, Noise::Hat, 300.0));
        results.put(Row { kid: None, ..row(20, Noise::Eta(0.2), 9.5) });
        let csv = results.to_csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("10,hat,linear,ddim,off,10,5000,300.0,1.5,two-numbers,2,0.3,"), "{csv}");
        assert!(lines[1].contains(r#","clothes, ""plain""","#), "{csv}");
        assert!(lines[2].contains(",two-numbers,2,,0.0002,"), "{csv}");
        let Value::Object(fields) = serde_json::to_value(row(1, Noise::Hat, 1.0)).unwrap() else { unreachable!() };
        let mut named: Vec<&str> = COLUMNS.to_vec();
        named.push("options");
        named.sort_unstable();
        assert_eq!(fields.keys().map(String::as_str).collect::<Vec<_>>(), named);
    }

    #[test]
    fn what_is_no_results_file_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "[]", "{\"format\":2,\"rows\":[]}", "{\"format\":1,\"rows\":[{}]}"] {
            std::fs::write(folder.path().join("results.json"), text).unwrap();
            let error = Results::read(folder.path()).unwrap_err();
            assert!(error.message().contains("remove it; the same command makes it again"), "{error}");
        }
    }
}
