use super::super::zip::tests::archive;
use super::*;

const ZIP: &[u8] = include_bytes!("../../../../tests/fixtures/small_zip.pth");
const LEGACY: &[u8] = include_bytes!("../../../../tests/fixtures/small_legacy.pth");
const VERY_OLD: &[u8] = include_bytes!("../../../../tests/fixtures/small_very_old.pth");

/// Element k of a tensor in the fixtures, as defined by golden/make_checkpoint_fixtures.py.
fn formula(name: &str, n: usize) -> Vec<f32> {
    let sum: u32 = name.bytes().map(u32::from).sum();
    (0..n).map(|k| (sum % 64) as f32 / 16.0 + (k % 32) as f32 / 128.0).collect()
}

fn open(bytes: &[u8]) -> Result<TensorFile<'_>> {
    let label = Path::new("weights.pth");
    let file = TorchFile::open(Box::new(bytes), label)?;
    let saved = file.saved()?;
    let named = saved.names.iter().zip(&saved.tensors);
    let entries: BTreeMap<String, Entry> = named
        .map(|(name, tensor)| Ok((name.clone(), file.entry(tensor).map_err(|e| e.within(name))?)))
        .collect::<Result<_>>()?;
    if entries.is_empty() {
        return Err(Error::data("no tensors"));
    }
    Ok(file.into_tensors(label, entries))
}

fn read_all(bytes: &[u8]) -> Result<BTreeMap<String, Vec<f32>>> {
    let file = open(bytes)?;
    let floats = file.entries().iter().filter(|(_, e)| !matches!(e.dtype, Dtype::Other(_)));
    floats.map(|(name, entry)| Ok((name.clone(), file.values(name, entry)?))).collect()
}

#[test]
fn files_of_torch_in_the_new_and_the_old_container_are_read() {
    for bytes in [ZIP, LEGACY] {
        let values = read_all(bytes).unwrap();
        assert_eq!(values["plain"], formula("plain", 6));
        // Saved as the transpose of a 4×3 tensor: element (r, c) is element 3c + r of the formula.
        let source = formula("transposed", 12);
        let transposed: Vec<f32> = (0..3).flat_map(|r| (0..4).map(move |c| 3 * c + r)).map(|k| source[k]).collect();
        assert_eq!(values["transposed"], transposed);
        let shared = formula("shared", 12);
        assert_eq!((&values["first"][..], &values["last"][..]), (&shared[..6], &shared[6..]));
        assert_eq!(values["half"], formula("half", 5));
        assert_eq!(values["bf16"], [1.5, -2.0, 0.25]);
        assert_eq!(values["double"], formula("double", 4));
        assert_eq!(values["scalar"], [2.5]);
        assert_eq!(values["parameter"], formula("parameter", 3));
        assert_eq!(values.len(), 9);
        let file = open(bytes).unwrap();
        assert_eq!(file.entries()["transposed"].shape, [3, 4]);
        assert_eq!(file.entries()["scalar"].shape, [0usize; 0]);
        let e = file.values("steps", &file.entries()["steps"]).unwrap_err();
        assert_eq!(e.to_string(), "weights.pth: steps: unsupported dtype LongStorage: expected f64, f32, f16 or bf16");
    }
}

#[test]
fn tensors_from_before_torch_0_4_are_read() {
    assert!(VERY_OLD.windows(16).any(|w| w == b"_rebuild_tensor\n"), "the fixture must use the old function");
    let values = read_all(VERY_OLD).unwrap();
    assert_eq!(values["plain"], formula("plain", 6));
    assert_eq!(values["other"], formula("other", 4));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for bytes in [ZIP, LEGACY, VERY_OLD] {
        for end in 0..bytes.len() {
            assert!(read_all(&bytes[..end]).is_err(), "cut at {end} of {}", bytes.len());
        }
    }
}

#[test]
fn any_damaged_byte_is_an_error_or_other_numbers_but_never_a_panic() {
    for bytes in [ZIP, LEGACY, VERY_OLD] {
        for at in 0..bytes.len() {
            for flip in [0xff, 0x01, 0x80] {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= flip;
                let _ = read_all(&damaged);
            }
        }
    }
}

#[test]
fn damaged_weights_in_a_zip_are_noticed_by_their_checksum() {
    let raw: Vec<u8> = formula("plain", 6).iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = ZIP.windows(raw.len()).position(|w| w == raw).unwrap();
    let mut damaged = ZIP.to_vec();
    damaged[at] ^= 1;
    let e = read_all(&damaged).unwrap_err();
    assert_eq!(e.to_string(), "weights.pth: plain: damaged: the checksum does not match");
}

/// `{"w": tensor of shape (n,) and stride (stride,)}` over a storage that claims `claimed` elements.
fn pickle(claimed: u32, n: u32, stride: u8) -> Vec<u8> {
    let mut p = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage".to_vec();
    p.extend(b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ");
    p.extend(claimed.to_le_bytes());
    p.extend(b"tQK\0J");
    p.extend(n.to_le_bytes());
    p.extend([0x85, b'K', stride]);
    p.extend(b"\x85\x89NtRs.");
    p
}

fn torch_zip(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    archive(&[("m/data.pkl", pickle), ("m/byteorder", b"little"), ("m/data/0", storage)])
}

#[test]
fn sizes_that_the_file_does_not_hold_are_refused_before_memory_is_taken() {
    assert_eq!(read_all(&torch_zip(&pickle(2, 2, 1), &[0; 8])).unwrap()["w"], [0.0, 0.0]);
    for (claimed, n, stride, what) in [
        (1 << 30, 1 << 30, 1, "storage \"0\" has 8 bytes"),
        (2, 3, 1, "too large for its storage"),
        (2, 1 << 30, 0, "too large for its storage"),
        (2, 2, 2, "too large for its storage"),
    ] {
        let e = read_all(&torch_zip(&pickle(claimed, n, stride), &[0; 8])).unwrap_err();
        assert!(e.message().contains(what), "{e}");
    }
}

#[test]
fn archives_that_are_no_checkpoint_are_refused() {
    let good = pickle(2, 2, 1);
    for (bytes, what) in [
        (archive(&[("m/x", b"1")]), "without data.pkl"),
        (archive(&[("m/data.pkl", &good)]), "storage \"0\" is missing"),
        (archive(&[("m/data.pkl", &good), ("m/byteorder", b"big"), ("m/data/0", &[0; 8])]), "byteorder"),
        (archive(&[("m/data.pkl", b"N."), ("m/data/0", &[0; 8])]), "no tensors"),
        (b"hello world".to_vec(), "not a file of torch.save"),
        (Vec::new(), "not a file of torch.save"),
    ] {
        let e = read_all(&bytes).unwrap_err();
        assert!(e.to_string().contains(what), "{e}");
    }
}

#[test]
fn a_legacy_storage_of_a_lying_or_negative_length_is_refused() {
    let raw: Vec<u8> = formula("plain", 6).iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = VERY_OLD.windows(raw.len()).position(|w| w == raw).unwrap() - 8;
    for count in [-1i64, i64::MIN, i64::MAX, 1 << 40] {
        let mut damaged = VERY_OLD.to_vec();
        damaged[at..at + 8].copy_from_slice(&count.to_le_bytes());
        let e = read_all(&damaged).unwrap_err();
        assert!(e.message().starts_with("truncated: storage"), "{e}");
    }
}

#[test]
fn dictionaries_that_hold_themselves_end_in_an_error() {
    // Thirty entries, each of which is the dictionary again: 30⁸ paths.
    let mut p = b"\x80\x02}q\0(".to_vec();
    for key in 0..30 {
        p.extend(b"X\x01\0\0\0");
        p.extend([b'a' + key % 26, b'h', 0]);
    }
    p.extend(b"u.");
    let e = read_all(&torch_zip(&p, &[])).unwrap_err();
    assert_eq!(e.message(), "more than 1000000 entries of dictionaries");
}
