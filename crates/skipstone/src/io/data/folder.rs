//! Folders of PNG, JPEG and WebP images.

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::Array4;
use rayon::prelude::*;

use super::Dataset;
use super::fit::Fit;
use super::photo::decode;
use crate::error::{Error, Kind, Result};

/// Maximum nesting of folders; more suggests a link that leads back.
const MAX_DEPTH: usize = 32;

/// Every PNG, JPEG and WebP file below `folder`, sorted by the bytes of its path. Skips hidden files.
///
/// # Errors
/// A folder cannot be read or is nested more than 32 deep.
pub fn list_images(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(folder, 0, &mut found)?;
    found.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(found)
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::data(format!(
            "folders are nested more than {MAX_DEPTH} deep; check for a link that leads back"
        ))
        .in_file(folder));
    }
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        // Follows links, because data sets are often assembled from them.
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            // A link that leads nowhere and does not stand for an image.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !is_image(&path) => continue,
            Err(e) => return Err(Error::io(&path, e)),
        };
        if metadata.is_dir() {
            walk(&path, depth + 1, found)?;
        } else if is_image(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["png", "jpg", "jpeg", "webp"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The images below `folder`, each cropped and resized to `fit`, in the order of [`list_images`].
///
/// If every image lies in a sub-folder, the first folder of its path is its class. Otherwise there are no classes.
///
/// # Errors
/// There is no image, the images exceed addressable memory, or a file is broken (the error names it).
pub fn read_folder(folder: &Path, fit: &Fit) -> Result<Dataset> {
    fit.validate()?;
    let paths = list_images(folder)?;
    if paths.is_empty() {
        let message = "the folder has no .png, .jpg, .jpeg or .webp file";
        return Err(Error::new(Kind::NotFound, message).in_file(folder));
    }
    let [h, w] = fit.size;
    let size = fit.channels * h * w; // at most 3·2^28
    let total = paths.len().checked_mul(size).filter(|&total| total <= isize::MAX as usize);
    let total = total.ok_or_else(|| {
        Error::argument(format!("{} images of {size} bytes do not fit in memory", paths.len())).in_file(folder)
    })?;
    let mut pixels = vec![0; total];
    let mut shapes = vec![[0; 3]; paths.len()];
    let places = pixels.par_chunks_exact_mut(size).zip(&mut shapes).zip(&paths);
    let broken = places.find_map_first(|((planes, shape), path)| {
        let read = decode(path, fit.background).and_then(|pixels| {
            *shape = [pixels.channels, pixels.height, pixels.width];
            pixels.fit_into(fit, planes)
        });
        read.err().map(|e| e.in_file(path))
    });
    if let Some(error) = broken {
        return Err(error);
    }
    let images = Array4::from_shape_vec((paths.len(), fit.channels, h, w), pixels)
        .map_err(|e| Error::data(e.to_string()).in_file(folder))?;
    let (labels, class_names) = classes(folder, &paths);
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy();
    Ok(Dataset::new(name, images, labels, class_names)?.resized_from(shapes))
}

/// The class of each path and the sorted class names, if every path has a class.
fn classes(folder: &Path, paths: &[PathBuf]) -> (Option<Vec<u32>>, Vec<String>) {
    let class = |path: &PathBuf| {
        let inside = path.strip_prefix(folder).ok()?;
        let mut parts = inside.components();
        let first = parts.next()?.as_os_str().to_owned();
        parts.next().map(|_| first)
    };
    let Some(of_image) = paths.iter().map(class).collect::<Option<Vec<_>>>() else {
        return (None, Vec::new());
    };
    let mut names = of_image.clone();
    names.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
    names.dedup();
    let place = |name: &std::ffi::OsString| names.iter().position(|n| n == name).unwrap_or(0) as u32;
    (Some(of_image.iter().map(place).collect()), names.iter().map(|n| n.to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use ::image::{GrayImage, Luma};

    use super::super::WHITE;
    use super::*;

    const GRAY: Fit = Fit { size: [4, 4], channels: 1, background: WHITE };

    fn save(folder: &Path, name: &str, value: u8) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        GrayImage::from_pixel(9, 5, Luma([value])).save(path).unwrap();
    }

    fn values(data: &Dataset) -> Vec<u8> {
        (0..data.len()).map(|i| data.image(i).unwrap()[[0, 1, 1]]).collect()
    }

    #[test]
    fn images_come_in_the_order_of_their_paths_with_the_sub_folder_as_class() {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [("cat/2.png", 20), ("ant/x.PNG", 10), ("cat/10.png", 30), ("cat/deep/1.webp", 40)] {
            save(folder.path(), name, value);
        }
        fs::write(folder.path().join("notes.txt"), "not an image").unwrap();
        fs::write(folder.path().join("cat/._2.png"), "resource fork").unwrap();
        let data = read_folder(folder.path(), &GRAY).unwrap();
        assert_eq!(values(&data), [10, 30, 20, 40]);
        assert_eq!(data.labels().unwrap(), [0, 1, 1, 1]);
        assert_eq!(data.class_names(), ["ant", "cat"]);
        // WebP has no gray format.
        assert_eq!((data.shape(), data.original_size()), ([1, 4, 4], Some("various sizes")));
        // With an image outside the class folders, there are no classes.
        save(folder.path(), "root.png", 50);
        assert_eq!(read_folder(folder.path(), &GRAY).unwrap().labels(), None);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_one_that_leads_nowhere_matters_only_as_an_image() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
        save(elsewhere.path(), "1.png", 10);
        link(elsewhere.path(), "photos");
        link(&elsewhere.path().join("gone"), "notes.txt");
        link(&elsewhere.path().join("gone"), "gone");
        assert_eq!(list_images(folder.path()).unwrap(), [folder.path().join("photos/1.png")]);
        link(&elsewhere.path().join("gone.png"), "2.png");
        let error = list_images(folder.path()).unwrap_err();
        assert_eq!((error.kind(), error.path()), (Kind::NotFound, Some(&*folder.path().join("2.png"))));
    }

    #[test]
    fn a_broken_file_is_named_and_so_is_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_folder(folder.path(), &GRAY).unwrap_err().kind(), Kind::NotFound);
        save(folder.path(), "a.png", 1);
        let whole = fs::read(folder.path().join("a.png")).unwrap();
        let broken = folder.path().join("b.png");
        for bytes in [&whole[..whole.len() / 2], &whole[..0], b"GIF89a"] {
            fs::write(&broken, bytes).unwrap();
            let error = read_folder(folder.path(), &GRAY).unwrap_err();
            assert_eq!(error.path(), Some(broken.as_path()), "{error}");
        }
    }
}
