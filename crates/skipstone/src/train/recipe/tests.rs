use super::*;

#[test]
fn an_unknown_key_names_the_nearest() {
    for (text, nearest) in [
        ("[train]\nbatchsize = 3", "train.batch"),
        ("[optimizer]\nlearning_rate = 3", "optimizer."),
        ("[trian]\nsteps = 3", "train.steps"),
        ("steps = 3", "train.steps"),
    ] {
        let e = Recipe::parse(text, &[]).unwrap_err().to_string();
        assert!(e.contains("unknown key") && e.contains(nearest), "{text}: {e}");
    }
}

#[test]
fn a_recipe_written_out_reads_back_the_same() {
    assert!(!Recipe::default().to_toml().contains("precision"));
    let overrides =
        ["optimizer.kind=adamw".to_string(), "train.precision=f16".into(), "model.block_out_channels=[16, 32]".into()];
    let recipe = Recipe::parse("[model]\nattention = [false, true]", &overrides).unwrap();
    assert_eq!(recipe.model.block_out_channels, [16, 32]);
    assert_eq!(Recipe::parse(&recipe.to_toml(), &[]).unwrap(), recipe);
}

#[test]
fn values_out_of_range_are_named() {
    for (set, name) in [
        ("train.batch=0", "train.batch"),
        ("optimizer.beta2=1.5", "optimizer.beta2"),
        ("model.sample_size=[30, 28]", "sample_size"),
        ("diffusion.prediction=noise", "diffusion.prediction"),
        ("data.class_dropout=0.1", "data.class_dropout"),
        ("diffusion.zero_snr=true", "v"),
    ] {
        let e = Recipe::parse("", &[set.into()]).unwrap_err().to_string();
        assert!(e.contains(name), "{set}: {e}");
    }
}

#[test]
fn a_name_that_is_none_is_refused_with_its_key_and_all_there_are() {
    for (set, names) in [
        ("diffusion.prediction=noise", "epsilon, sample or v_prediction"),
        ("diffusion.schedule=steep", "linear, scaled_linear (quad), squaredcos_cap_v2, sigmoid, const or jsd"),
        ("diffusion.weighting=snr", "`none` or `min_snr`"),
        ("optimizer.kind=sgd", "`adam` or `adamw`"),
        ("optimizer.decay=linear", "`constant` or `cosine`"),
        ("train.batch=many", "usize"),
        ("train.precision=f64", "f32, f16 or bf16"),
    ] {
        let e = Recipe::parse("", &[set.into()]).unwrap_err().to_string();
        let (key, value) = set.split_once('=').unwrap();
        assert!(e.starts_with(key) && e.contains(value) && e.contains(names), "{set}: {e}");
    }
}

#[test]
fn names_are_written_as_they_are_read() {
    let text = Recipe::default().to_toml();
    for line in [
        "schedule = \"linear\"",
        "prediction = \"epsilon\"",
        "weighting = \"none\"",
        "kind = \"adam\"",
        "decay = \"constant\"",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    let others = "schedule = \"squaredcos_cap_v2\"\nprediction = \"v_prediction\"\nweighting = \"min_snr\"\n";
    let text = Recipe::parse(&format!("[diffusion]\n{others}"), &["optimizer.kind=adamw".into()]).unwrap().to_toml();
    assert!(others.lines().all(|line| text.contains(line)) && text.contains("kind = \"adamw\""), "{text}");
}

#[test]
fn the_rate_warms_up_and_falls_to_its_end() {
    let set = ["optimizer.decay=cosine".into(), "optimizer.warmup=10".into(), "optimizer.final_lr=0.1".into()];
    let mut recipe = Recipe::parse("[train]\nsteps = 110", &set).unwrap();
    recipe.optimizer.lr = 1.0;
    let rate = |step| recipe.learning_rate(step);
    assert!((rate(5) - 0.5).abs() < 1e-12 && (rate(10) - 1.0).abs() < 1e-12);
    // Halfway down a cosine from 1 to 0.1 is their mean.
    assert!((rate(60) - 0.55).abs() < 1e-12 && (rate(110) - 0.1).abs() < 1e-12);
}

#[test]
fn a_recipe_of_a_distillation_written_out_reads_back_the_same() {
    let overrides =
        ["distill.steps=2".to_string(), "train.precision=f16".into(), "distill.weighting=snr_plus_one".into()];
    let recipe = Recipe::parse_distillation("[distill]\nfrom = 16\nguidance = 2.0", &overrides).unwrap();
    let text = recipe.to_toml();
    assert!(!text.contains("[model]") && !text.contains("[diffusion]"), "{text}");
    assert_eq!(Recipe::parse_distillation(&text, &[]).unwrap(), recipe);
    assert!(!Recipe::default().to_toml().contains("distill"));
    // Rounds of five steps: 16 to 8, 4 and 2 after the conversion.
    let recipe = Recipe::parse_distillation(&text, &["train.steps=5".into()]).unwrap();
    assert_eq!((recipe.rounds(), recipe.total_steps()), (4, 20));
    let places = [1, 5, 6, 20].map(|step| recipe.place(step));
    assert_eq!(places, [(0, 1), (0, 5), (1, 1), (3, 5)]);
}
