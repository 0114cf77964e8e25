//! The recipes beside the code.

use skipstone::train::Recipe;

#[test]
fn every_recipe_beside_the_code_can_be_trained() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = 0;
    for folder in ["configs", "models/emoji-32"] {
        for file in std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|e| e == "toml") {
                let recipe = Recipe::parse(&std::fs::read_to_string(&file).unwrap(), &[]);
                recipe.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
                found += 1;
            }
        }
    }
    assert!(found >= 5, "{found}");
}
