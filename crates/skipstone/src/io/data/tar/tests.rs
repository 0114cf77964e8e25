use super::*;
use crate::io::data::WHITE;

/// A member with a valid checksum.
fn member(name: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    block[156] = kind;
    block[257..263].copy_from_slice(b"ustar\0");
    seal(&mut block);
    block.extend(data);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

fn read(bytes: &[u8]) -> Result<Vec<Sample>> {
    samples(&bytes)
}

#[track_caller]
fn refused(bytes: &[u8], says: &str) {
    let error = read(bytes).unwrap_err();
    assert!(error.message().contains(says), "{error}");
}

#[test]
fn images_and_labels_meet_by_their_name_in_any_order() {
    let bytes = archive(&[
        member("a/1.cls", b'0', b" 7\n"),
        member("a/1.jpg", b'0', b"one"),
        member("b/1.seg.PNG", b'0', b"other"),
        member("b/1.cls", b'0', b"3"),
        member("a/._1.png", b'0', b"resource fork"),
        member("notes", b'0', b"no image"),
    ]);
    let found = read(&bytes).unwrap();
    assert_eq!(found.iter().map(|sample| sample.label).collect::<Vec<_>>(), [Some(7), Some(3)]);
    let Entry { start, len, .. } = found[1].image;
    assert_eq!(&bytes[start as usize..][..len as usize], b"other");
}

#[test]
fn paths_and_links_lead_nowhere() {
    let mut link = member("x.png", b'2', b"");
    link[157..168].copy_from_slice(b"/etc/passwd");
    seal(&mut link);
    let bytes =
        archive(&[member("../../etc/1.png", b'0', b"data"), link, member("/dev/", b'5', b""), member("d", b'3', b"")]);
    let found = read(&bytes).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].image.len, 4);
}

#[test]
fn an_archive_cut_anywhere_is_an_error() {
    let bytes = archive(&[member("1.png", b'0', &[1; 700]), member("1.cls", b'0', b"1")]);
    // The end is the first block of zeros.
    for end in 0..bytes.len() - 512 {
        assert!(read(&bytes[..end]).is_err(), "cut at {end}");
    }
    assert!(read(&bytes).is_ok());
}

#[test]
fn any_damaged_byte_is_survived() {
    let attributes = b"18 path=a/1.png\n";
    let bytes = archive(&[
        member("x", b'x', attributes),
        member("1.png", b'0', b"i"),
        member("n", b'L', b"2.cls\0"),
        member("c", b'0', b"1"),
    ]);
    for at in 0..bytes.len() {
        for value in [0, 1, b'0', b'9', 0x7f, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            let _ = read(&damaged);
            // With a valid checksum the lie reaches the fields.
            let block = at / 512 * 512;
            seal(&mut damaged[block..block + 512]);
            let _ = read(&damaged);
        }
    }
}

#[test]
fn lying_sizes_and_other_formats_are_refused() {
    let sized = |field: &[u8; 12]| {
        let mut bytes = archive(&[member("1.png", b'0', b"data")]);
        bytes[124..136].copy_from_slice(field);
        seal(&mut bytes[..512]);
        bytes
    };
    refused(&sized(b"77777777777\0"), "beyond the end");
    refused(&sized(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), "beyond the end");
    refused(&sized(b"\x80\x01\0\0\0\0\0\0\0\0\0\x04"), "no number");
    refused(&sized(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "no number");
    refused(&sized(b"abc        \0"), "no number");
    refused(&archive(&[member("x", b'x', b"99 path=a\n")]), "damaged attributes");
    refused(&archive(&[member("x", b'x', b"16 size=9999999\n"), member("1.png", b'0', b"data")]), "beyond the end");
    refused(&archive(&[member("s.png", b'S', b"data")]), "--sparse");
    refused(&archive(&[member("1.png", b'0', b"")]), "0 bytes");
    refused(&archive(&[member("1.png", b'0', b"a"), member("1.jpg", b'0', b"b")]), "second image");
    refused(&archive(&[member("1.cls", b'0', b"cat")]), "number of a class");
    refused(&[&[0x1f, 0x8b][..], &[0; 600]].concat(), "compressed");
    refused(&[b'x'; 1024], "not a tar archive");
    refused(b"", "shorter than a header");
}

#[test]
fn a_broken_image_is_named_when_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let png = crate::io::image::encode_png(&crate::io::image::Picture::new(2, 2, 1, vec![9; 4]).unwrap(), &[]).unwrap();
    std::fs::write(&path, archive(&[member("0.png", b'0', &png), member("1.png", b'0', &png[..40])])).unwrap();
    let fit = Fit { size: [1, 1], channels: 1, background: WHITE };
    let data = read_tar("a".into(), std::slice::from_ref(&path), &fit).unwrap();
    assert_eq!(data.image(0).unwrap(), ndarray::array![[[9]]]);
    let error = data.batch(0..2).unwrap_err();
    assert!(error.message().contains("image 1, at byte") && error.path() == Some(&path), "{error}");
    std::fs::write(&path, archive(&[member("readme.txt", b'0', b"nothing")])).unwrap();
    assert_eq!(read_tar("a".into(), &[path], &fit).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn images_without_labels_among_labelled_ones_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    std::fs::write(
        &path,
        archive(&[member("0.png", b'0', b"a"), member("1.png", b'0', b"b"), member("1.cls", b'0', b"1")]),
    )
    .unwrap();
    let fit = Fit { size: [1, 1], channels: 1, background: WHITE };
    let data = read_tar("a".into(), &[path], &fit).unwrap();
    assert_eq!(data.labels(), None);
    assert!(data.notes()[0].contains("only 1 of 2 images"), "{:?}", data.notes());
}
