//! Arbitrary bytes as an ONNX file, whose inputs are then told apart. What rten does with the file is not under test.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use skipstone_onnx::Names;
use skipstone_onnx::scan::Outline;

fuzz_target!(|data: &[u8]| {
    let Ok(outline) = Outline::scan(Cursor::new(data), data.len() as u64) else { return };
    outline.parameters();
    let named: Names = "size=8x8,channels=3,classes=10".parse().expect("valid names");
    assert_eq!(named.to_string().parse::<Names>().expect("what was written can be read"), named);
    for names in [Names::default(), named] {
        let _ = outline.describe(&names);
    }
});
