//! The OpenAPI document as it was: clients are generated from it. `SKIPSTONE_FREEZE=1` writes it anew.

#[test]
fn the_document_is_what_it_was() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/frozen/openapi.json");
    let text = format!("{:#}\n", skipstone_serve::document());
    if std::env::var_os("SKIPSTONE_FREEZE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    let difference = kept.lines().zip(text.lines()).position(|(was, is)| was != is);
    if let Some(line) = difference {
        let nth = |text: &str| text.lines().nth(line).unwrap_or_default().to_owned();
        panic!("openapi.json, line {}: was {}, is {}", line + 1, nth(&kept), nth(&text));
    }
    assert_eq!(kept.len(), text.len());
}
