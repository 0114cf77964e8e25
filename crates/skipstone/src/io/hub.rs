//! The cache of the Hugging Face hub, read without a network.
//!
//! `models--ORG--NAME/refs/REVISION` is a text file with a commit, `models--ORG--NAME/snapshots/COMMIT` the folder of that
//! commit, whose files are links to `blobs`. The layout is that of `huggingface_hub` 1.x and 0.x
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::io::files;

/// Files with these endings are never names of models on the hub.
const FILES: [&str; 8] = ["safetensors", "ckpt", "pth", "pt", "bin", "onnx", "json", "npy"];
/// Maximum size in bytes of a file in `refs`; a commit has 40.
const MAX_REF: u64 = 256;

/// A model's name on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name<'a> {
    organisation: &'a str,
    name: &'a str,
    /// A branch, a tag or a commit.
    revision: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// Reads `org/name` or `org/name@revision`; `None` if `path` is nothing like it.
    fn parse(path: &'a Path) -> Option<Self> {
        let text = path.to_str()?;
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let (organisation, name) = id.split_once('/')?;
        let plain = |part: &str| {
            let characters = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            characters && !part.is_empty() && part.len() <= 96 && !part.starts_with('.') && !part.ends_with('.')
        };
        let file = Path::new(name).extension().and_then(|e| e.to_str()).is_some_and(|e| FILES.contains(&e));
        // A branch may have slashes, but none of its parts may lead elsewhere.
        let inside = |revision: &str| revision.len() <= 256 && revision.split('/').all(plain);
        (plain(organisation) && plain(name) && !file && revision.is_none_or(inside)).then_some(Self {
            organisation,
            name,
            revision,
        })
    }

    /// The command that downloads the model.
    fn command(&self) -> String {
        let revision = self.revision.map_or(String::new(), |revision| format!(" --revision {revision}"));
        format!("hf download {}/{}{revision}", self.organisation, self.name)
    }
}

/// The folder or file of a model: `path` itself if it exists, else the snapshot of the model called `path`
/// (`org/name` or `org/name@revision`) in the Hugging Face cache. Looks in `HF_HUB_CACHE`, `HF_HOME/hub` and
/// `~/.cache/huggingface/hub`, in this order. A revision is a branch, a tag or a commit, by default the branch `main`.
///
/// ```
/// let e = skipstone::io::hub::locate("no-such-organisation/model".as_ref()).unwrap_err();
/// assert!(e.message().contains("hf download no-such-organisation/model"));
/// ```
///
/// # Errors
/// Neither exists. The message has the command that downloads the model.
pub fn locate(path: &Path) -> Result<PathBuf> {
    let missing = match std::fs::metadata(path) {
        Ok(_) => return Ok(path.to_path_buf()),
        Err(e) => Error::io(path, e),
    };
    match Name::parse(path) {
        Some(name) if missing.kind() == Kind::NotFound => find(name, &caches(|key| std::env::var_os(key))),
        _ => Err(missing),
    }
}

/// The folders that may be the cache, in order of precedence.
fn caches(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |key| variable(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").or_else(|| set("USERPROFILE")).map(|home| home.join(".cache"));
    let all = [
        set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")),
        set("HF_HOME").map(|home| home.join("hub")),
        set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")),
        home().map(|cache| cache.join("huggingface/hub")),
    ];
    all.into_iter().flatten().collect()
}

fn find(name: Name<'_>, caches: &[PathBuf]) -> Result<PathBuf> {
    let Name { organisation, name: model, revision } = name;
    let folders = caches.iter().map(|cache| cache.join(format!("models--{organisation}--{model}")));
    let folders: Vec<PathBuf> = folders.filter(|folder| folder.is_dir()).collect();
    for folder in &folders {
        if let Some(snapshot) = snapshot(folder, revision.unwrap_or("main"))? {
            tracing::info!(snapshot = %snapshot.display(), "model found in the Hugging Face cache");
            return Ok(snapshot);
        }
    }
    let full = format!("{organisation}/{model}");
    let command = name.command();
    let known: Vec<String> = folders.iter().flat_map(|folder| revisions(folder)).collect();
    let what = match (revision, &known[..]) {
        (_, []) => format!(
            "{full}: there is no such file or folder here, and no such model in the Hugging Face cache; correct the path, \
             or download the model with: {command}"
        ),
        (revision, known) => format!(
            "{full}: the Hugging Face cache has no revision {} of it, only {}; choose one ({full}@REVISION) or download it \
             with: {command}",
            revision.unwrap_or("main"),
            known.join(", ")
        ),
    };
    Err(Error::new(Kind::NotFound, what))
}

/// The snapshot of a revision in a model's folder of the cache.
fn snapshot(folder: &Path, revision: &str) -> Result<Option<PathBuf>> {
    let of_commit = |commit: &str| Some(folder.join("snapshots").join(commit)).filter(|snapshot| snapshot.is_dir());
    let reference = folder.join("refs").join(revision);
    if reference.is_file() {
        let bytes = files::read(&reference, MAX_REF)?;
        let commit = String::from_utf8_lossy(&bytes).trim().to_owned();
        if !is_commit(&commit) {
            return Err(Error::data("expected the 40 hexadecimal digits of a commit").in_file(reference));
        }
        return Ok(of_commit(&commit));
    }
    if !revision.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(None);
    }
    // A commit, whole or abbreviated.
    let abbreviated = revision.len() >= 7;
    let mut matching = commits(folder).into_iter().filter(|c| c == revision || abbreviated && c.starts_with(revision));
    Ok(match (matching.next(), matching.next()) {
        (Some(commit), None) => of_commit(&commit),
        _ => None,
    })
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// The names in a folder, sorted; none if it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn commits(folder: &Path) -> Vec<String> {
    names(&folder.join("snapshots")).into_iter().filter(|name| is_commit(name)).collect()
}

/// The first branches, tags and commits that are there.
fn revisions(folder: &Path) -> Vec<String> {
    let referenced =
        names(&folder.join("refs")).into_iter().filter(|name| matches!(snapshot(folder, name), Ok(Some(_))));
    referenced.chain(commits(folder)).take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const OTHER: &str = "0123456fffffffffffffffffffffffffffffffff";

    fn cache() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("models--google--ddpm");
        for commit in [COMMIT, OTHER] {
            fs::create_dir_all(model.join("snapshots").join(commit)).unwrap();
        }
        fs::create_dir_all(model.join("refs/refs/pr")).unwrap();
        fs::write(model.join("refs/main"), COMMIT).unwrap();
        fs::write(model.join("refs/v1.0"), format!("{OTHER}\n")).unwrap();
        fs::write(model.join("refs/refs/pr/1"), OTHER).unwrap();
        fs::write(model.join("refs/gone"), "f".repeat(40)).unwrap();
        fs::write(model.join("refs/damaged"), "../../../etc").unwrap();
        dir
    }

    fn found(text: &str, cache: &Path) -> Result<String> {
        let folder = find(Name::parse(Path::new(text)).expect(text), &[cache.join("absent"), cache.to_path_buf()])?;
        Ok(folder.file_name().unwrap().to_str().unwrap().to_owned())
    }

    #[test]
    fn branches_tags_requests_and_commits_lead_to_their_snapshot() {
        let dir = cache();
        for (text, commit) in [
            ("google/ddpm", COMMIT),
            ("google/ddpm@main", COMMIT),
            ("google/ddpm@v1.0", OTHER),
            ("google/ddpm@refs/pr/1", OTHER),
            ("google/ddpm@0123456789abcdef0123456789abcdef01234567", COMMIT),
            ("google/ddpm@01234567", COMMIT),
            ("google/ddpm@0123456f", OTHER),
        ] {
            assert_eq!(found(text, dir.path()).unwrap(), commit, "{text}");
        }
    }

    #[test]
    fn what_is_not_there_names_the_command_and_what_is() {
        let dir = cache();
        let refused = |text: &str| found(text, dir.path()).unwrap_err();
        let e = refused("google/other");
        assert_eq!(e.kind(), Kind::NotFound);
        assert_eq!(
            e.message(),
            "google/other: there is no such file or folder here, and no such model in the Hugging Face cache; correct the \
             path, or download the model with: hf download google/other"
        );
        // Absent, without its snapshot, too short, and fitting two commits.
        for revision in ["absent", "gone", "012345", "0123456"] {
            let e = refused(&format!("google/ddpm@{revision}"));
            assert!(e.message().contains(&format!("no revision {revision} of it, only main, v1.0, {COMMIT}")), "{e}");
            assert!(e.message().ends_with(&format!("hf download google/ddpm --revision {revision}")), "{e}");
        }
        let e = refused("google/ddpm@damaged");
        assert_eq!(e.kind(), Kind::InvalidData);
        assert_eq!(e.path(), Some(&*dir.path().join("models--google--ddpm/refs/damaged")));
    }

    #[test]
    fn only_names_of_the_hub_are_looked_up() {
        for text in [
            "model",
            "a/b/c",
            "/a/b",
            "./a",
            "../a",
            "a/..",
            "a/.hidden",
            "a/b@",
            "a/b@../../x",
            "a/b@/x",
            "a/b@x/../y",
            "a/model.ckpt",
            "a/model.safetensors",
            "a/ä",
            "a/b c",
            "a\\b/c",
            "",
            "/",
        ] {
            assert_eq!(Name::parse(Path::new(text)), None, "{text}");
        }
        let name = Name::parse(Path::new("google/ddpm-cifar10-32@v1.0")).unwrap();
        assert_eq!((name.organisation, name.name, name.revision), ("google", "ddpm-cifar10-32", Some("v1.0")));
    }

    #[test]
    fn a_folder_of_that_name_wins_and_other_errors_stay() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(locate(dir.path()).unwrap(), dir.path());
        let e = locate(&dir.path().join("model.ckpt")).unwrap_err();
        assert_eq!((e.kind(), e.path()), (Kind::NotFound, Some(&*dir.path().join("model.ckpt"))));
    }

    #[test]
    fn caches_are_searched_in_the_order_of_the_hub_s_client() {
        let set = |pairs: &'static [(&str, &str)]| {
            caches(move |key| pairs.iter().find(|(k, _)| *k == key).map(|(_, value)| value.into()))
        };
        assert_eq!(set(&[("HOME", "/h")]), [Path::new("/h/.cache/huggingface/hub")]);
        let all = set(&[("HF_HOME", "/f"), ("HOME", "/h"), ("HF_HUB_CACHE", "/c"), ("XDG_CACHE_HOME", "")]);
        assert_eq!(all, ["/c", "/f/hub", "/h/.cache/huggingface/hub"].map(Path::new));
        assert!(set(&[]).is_empty());
    }
}
