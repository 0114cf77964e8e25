//! Arbitrary text as each of the text files that describe a model, its training or its use.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone::objective::calibration::Calibration;
use skipstone::io::checkpoint::{SchedulerConfig, config_from_json, config_to_json};
use skipstone::sampling::generate::Manifest;
use skipstone::train::Recipe;

fuzz_target!(|text: &str| {
    if let Ok(config) = config_from_json(text, None) {
        assert_eq!(config_from_json(&config_to_json(&config), None).expect("what was written can be read"), config);
    }
    if let Ok(scheduler) = SchedulerConfig::from_json(text) {
        let _ = scheduler.schedule();
        SchedulerConfig::from_json(&scheduler.to_json()).expect("what was written can be read");
    }
    if let Ok(calibration) = Calibration::from_json(text) {
        assert_eq!(Calibration::from_json(&calibration.to_json()).expect("what was written can be read"), calibration);
    }
    let _ = Manifest::from_json(text);
    if let Ok(recipe) = Recipe::parse(text, &[]) {
        assert_eq!(Recipe::parse(&recipe.to_toml(), &[]).expect("what was written can be read"), recipe);
    }
});
