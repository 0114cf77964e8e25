use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::*;
use crate::engine::Precision;
use crate::error::Error;
use crate::io::checkpoint::SchedulerConfig;
use crate::sampling::denoiser::DynamicThreshold;
use crate::sampling::solver::Solver;

/// Checks that a value survives text and JSON.
#[track_caller]
fn round_trip<T>(value: &T, text: &str, json: &Value)
where
    T: Display + FromStr<Err = Error> + Serialize + DeserializeOwned + PartialEq + Debug,
{
    assert_eq!(value.to_string(), text);
    assert_eq!(&text.parse::<T>().unwrap(), value);
    assert_eq!(&serde_json::to_value(value).unwrap(), json);
    assert_eq!(&serde_json::from_value::<T>(json.clone()).unwrap(), value);
}

#[test]
fn every_value_survives_text_and_json() {
    SpacingChoice::all().iter().for_each(|one| round_trip(one, &one.to_string(), &json!(one.to_string())));
    ClipMode::ALL.iter().for_each(|one| round_trip(one, &one.to_string(), &json!(one.to_string())));
    Solver::ALL.iter().for_each(|one| round_trip(one, &one.to_string(), &json!(one.to_string())));
    SolverChoice::all().iter().for_each(|one| round_trip(one, &one.to_string(), &json!(one.to_string())));
    Preset::ALL.iter().for_each(|one| round_trip(one, &one.to_string(), &json!(one.to_string())));
    Precision::ALL.iter().for_each(|one| round_trip(one, &one.to_string(), &json!(one.to_string())));
    round_trip(&DynamicThreshold { ratio: 0.995, max: 1.5 }, "0.995,1.5", &json!([0.995, 1.5]));
    round_trip(&Noise::Eta(0.0), "0", &json!(0.0));
    round_trip(&Noise::Eta(0.2), "0.2", &json!(0.2));
    round_trip(&Noise::Hat, "hat", &json!("hat"));
    round_trip(&Noise::Analytic { eta: 1.0 }, "analytic", &json!("analytic"));
    round_trip(&Noise::Analytic { eta: 0.5 }, "analytic:0.5", &json!("analytic:0.5"));
    round_trip(&Noise::Learned, "learned", &json!("learned"));
    for text in ["ddim25", "250", "10,15,20"] {
        let spacing: SpacingChoice = text.parse().unwrap();
        assert!(matches!(spacing, SpacingChoice::Respaced(_)));
        round_trip(&spacing, text, &json!(text));
    }
    round_trip(&Noise::Vector(vec![0.5, 0.0]), "[0.5,0]", &json!([0.5, 0.0]));
}

#[test]
fn unknown_names_are_refused_and_the_error_lists_the_known_ones() {
    for (error, names) in [
        ("even".parse::<SpacingChoice>().unwrap_err(), "linear, quadratic, leading"),
        ("even".parse::<SpacingChoice>().unwrap_err(), "logsnr, optimal, fitted"),
        ("on".parse::<ClipMode>().unwrap_err(), "off, keep-eps, rederive-eps"),
        ("0.9".parse::<DynamicThreshold>().unwrap_err(), "two numbers"),
    ] {
        assert!(error.message().contains(names), "{error}");
    }
    for text in ["", "-0.1", "nan", "inf", "sigma", "analytic:-1", "[0.1,x]"] {
        assert!(text.parse::<Noise>().is_err(), "{text}");
    }
    assert!(serde_json::from_str::<Noise>("-1").is_err());
    // The same noise always has the same name.
    assert_eq!("-0".parse::<Noise>().unwrap().to_string(), "0");
}

/// A non-default text value for each option.
fn sample_text(name: &str) -> &'static str {
    match name {
        "preset" => "fast",
        "steps" => "7",
        "sigma" => "analytic",
        "eta" => "0.5",
        "final_sigma" => "0.25",
        "spacing" => "quadratic",
        "times" => "900,30",
        "solver" => "heun",
        "clip" => "keep-eps",
        "threshold" => "0.9,1.5",
        "class" => "3",
        "guidance" => "-2",
        "guidance_interval" => "0.3,5",
        "guide" => "runs/weak",
        "restart" => "100,300,2",
        "precision" => "f16",
        "seed" => "18446744073709551615",
        other => panic!("{other}: add a value for the new option here"),
    }
}

#[test]
fn every_option_survives_json_and_flags() {
    for field in &FIELDS {
        let (name, text) = (field.about.name, sample_text(field.about.name));
        let mut fields = Map::from_iter([(name.to_owned(), field.parse(text).unwrap())]);
        let request = Request::take(&mut fields, SAMPLE).unwrap();
        assert_ne!(request, Request::default(), "{name}");
        assert!(fields.is_empty());
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request, "{json}");
        let flag = format!(" --{} {text}", field.about.flag());
        assert!(request.to_flags(SAMPLE).contains(&flag), "{name}: {}", request.to_flags(SAMPLE));
        assert!(request.fields(SAMPLE & !field.bit).is_empty(), "{name} belongs to exactly one set");
        // The field's description is valid: help text, choices and example.
        assert!(!field.about.help.ends_with('.') && !field.about.help.is_empty());
        if let Some(choice) = field.about.kind.choices().first() {
            field.parse(choice).unwrap();
        }
        if !field.about.example.is_empty() {
            field.parse(field.about.example).unwrap();
        }
    }
    assert_eq!(Request::default().to_flags(SAMPLE), "");
    assert_eq!(serde_json::to_string(&Request::default()).unwrap(), "{}");
}

#[test]
fn a_list_of_classes_survives_json_and_flags_and_one_class_stays_a_number() {
    for (text, json, flags) in [("3", r#"{"class":3}"#, " --class 3"), ("3,7", r#"{"class":[3,7]}"#, " --class 3,7")] {
        let request: Request = serde_json::from_str(&format!("{{\"class\": \"{text}\"}}")).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<Request>(json).unwrap(), request);
        assert_eq!(request.to_flags(SAMPLE), flags);
    }
}

#[test]
fn the_order_of_json_fields_does_not_matter() {
    for text in [r#"{"eta": 0.5, "sigma": "analytic"}"#, r#"{"sigma": "analytic", "eta": 0.5}"#] {
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(request.noise, Noise::Analytic { eta: 0.5 });
        assert_eq!(request.to_flags(NOISE), " --sigma analytic --eta 0.5");
    }
    // With the analytic variance, eta = 0 is not the default.
    let request: Request = serde_json::from_str(r#"{"sigma": "analytic", "eta": 0}"#).unwrap();
    assert_eq!(request.to_flags(NOISE), " --sigma analytic --eta 0");
}

#[test]
fn invalid_values_are_refused_and_the_message_names_the_option() {
    for (json, begins) in [
        (r#"{"stepz": 3}"#, "unknown field \"stepz\"; did you mean \"steps\"?"),
        (r#"{"steps": "ten"}"#, "steps: expected a whole number from 1 to 2^64 - 1, found \"ten\""),
        (r#"{"steps": -1}"#, "steps: expected a whole number from 1 to 2^64 - 1, found -1"),
        (r#"{"seed": 0.5}"#, "seed: expected a whole number from 0 to 2^64 - 1, found 0.5"),
        (r#"{"eta": -1}"#, "eta: expected a finite number of at least 0"),
        (r#"{"eta": 1, "sigma": "hat"}"#, "eta: cannot be combined with sigma hat"),
        (r#"{"eta": 1, "sigma": "learned"}"#, "eta: cannot be combined with sigma learned"),
        (r#"{"class": []}"#, "class: expected at least one class"),
        (r#"{"class": "3,x"}"#, "class: expected a number, found \"x\""),
        (r#"{"class": [3, -1]}"#, "class: expected a whole number of at least 0, or a list of them, found [3,-1]"),
        (r#"{"spacing": "ddim"}"#, "spacing \"ddim\": expected one of linear"),
        (r#"{"spacing": "ddim0"}"#, "spacing \"ddim0\": expected ddim25"),
        (r#"{"spacing": "10,,5"}"#, "spacing \"10,,5\": expected ddim25"),
        (r#"{"eta": 1, "sigma": [0.1]}"#, "eta: cannot be combined with a list"),
        (r#"{"sigma": 0.1}"#, "sigma: expected hat, analytic, learned, or one number"),
        (r#"{"sigma": "hut"}"#, "sigma: expected hat, analytic, learned, or one number"),
        (r#"{"times": [3], "steps": 3}"#, "times: cannot be used with steps"),
        (r#"{"times": "3,x"}"#, "times: expected numbers between commas, found \"x\""),
        (r#"{"times": 3}"#, "times: expected a list of numbers"),
        (r#"{"times": [-3]}"#, "times: expected a list of whole numbers of at least 0, found [-3]"),
        (r#"{"restart": [1]}"#, "restart: expected 3 whole numbers of at least 0, found [1]"),
        (r#"{"threshold": [1]}"#, "threshold: expected two numbers"),
        (r#"{"clip": "on"}"#, "clip \"on\": expected one of off"),
        (r#"{"solver": "huen"}"#, "solver \"huen\": expected one of ddim"),
        (r#"{"precision": "f8"}"#, "precision: expected f32, f16 or bf16"),
    ] {
        let error = serde_json::from_str::<Request>(json).unwrap_err().to_string();
        assert!(error.starts_with(begins), "{json}: {error}");
    }
    // Null counts as unset.
    assert_eq!(serde_json::from_str::<Request>(r#"{"times": null, "steps": 3}"#).unwrap().steps, Some(3));
}

#[test]
fn steps_default_to_the_models_which_are_fifty_its_timesteps_or_those_it_was_distilled_for() {
    let model = |t, distilled| SchedulerConfig {
        num_train_timesteps: t,
        num_inference_steps: distilled,
        ..SchedulerConfig::default()
    };
    let defaults = [model(1000, None), model(20, None), model(1000, Some(4))].map(|model| model.default_steps());
    assert_eq!(defaults, [50, 20, 4]);
    let request = Request::default();
    assert_eq!((request.steps_of(50), request.steps_of(4)), (50, 4));
    assert_eq!(Request { steps: Some(9), ..request.clone() }.steps_of(50), 9);
    let respaced = Request { spacing: Some("10,15,20".parse().unwrap()), ..request.clone() };
    assert_eq!(respaced.steps_of(50), 45);
    assert_eq!(Request { times: Some(vec![5, 3]), ..request }.steps_of(50), 2);
}
