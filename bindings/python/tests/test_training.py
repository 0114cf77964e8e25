"""Training against the command, byte by byte."""

import warnings

import numpy as np
import pytest
from conftest import discs

import skipstone as ss


def files(run):
    """The run's files that hold no time."""
    names = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file()]
    # The lock and what is exempt from equality.
    return {str(name): (run / name).read_bytes() for name in names if name.parts[0] in ("model", "state")}


def test_sixty_steps_are_the_commands_to_the_byte(recipe, command, tmp_path):
    np.save(tmp_path / "discs.npy", discs(64))
    (tmp_path / "recipe.toml").write_text(recipe)
    data = tmp_path / "discs.npy"
    command("train", "--data", data, "--config", tmp_path / "recipe.toml", "--out", tmp_path / "theirs")
    run = ss.train(data, tmp_path / "recipe.toml", out=tmp_path / "ours", progress=False)
    ours, theirs = files(tmp_path / "ours"), files(tmp_path / "theirs")
    assert ours == theirs and any("safetensors" in name for name in ours)
    assert run.steps == 60 and str(run.path) == str(tmp_path / "ours" / "model")

    # Broken off by a callback and resumed: the same again.
    class Enough(Exception):
        pass

    def callback(event):
        if event["event"] == "step" and event["step"] == 37:
            raise Enough

    with pytest.raises(Enough):
        ss.train(data, tmp_path / "recipe.toml", out=tmp_path / "parts", callback=callback)
    events = []
    run = ss.train(data, tmp_path / "recipe.toml", out=tmp_path / "parts", resume=True, callback=events.append)
    assert files(tmp_path / "parts") == theirs
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(38, 61))
    assert {"log", "checkpoint"} <= {e["event"] for e in events}
    assert ss.train(data, tmp_path / "recipe.toml", out=tmp_path / "parts", resume=True).steps == 60
    assert run.load().sample(2, steps=3).shape == (2, 1, 8, 8)


def test_a_distillation_is_the_commands_to_the_byte(recipe, command, tmp_path):
    np.save(tmp_path / "discs.npy", discs(16))
    data = tmp_path / "discs.npy"
    teacher = ss.train(data, recipe, out=tmp_path / "teacher", train={"steps": 4}, progress=False)
    theirs = "--steps 2 --from 4 --set train.steps=3 --set train.batch=4 --set optimizer.warmup=1".split()
    theirs += ["--set", "train.preview_every=0", "--seed", "3"]
    command("distill", "--teacher", teacher.path, "--data", data, "--out", tmp_path / "theirs", *theirs)
    keywords = dict(
        steps=2,
        from_steps=4,
        train={"steps": 3, "batch": 4, "preview_every": 0},
        optimizer={"warmup": 1},
        seed=3,
        progress=False,
    )
    events = []
    run = ss.distill(data, teacher.path, out=tmp_path / "ours", callback=events.append, **keywords)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    rounds = [(e["round"], e["teacher_steps"], e["student_steps"]) for e in events if e["event"] == "round"]
    assert [pair[1:] for pair in rounds][-1] == (4, 2) and rounds[0][0] == 1
    assert run.steps == 3 * len(rounds) == sum(e["event"] == "step" for e in events)
    # A loaded teacher, an array in memory, and a break.
    loaded, x = teacher.load(), discs(16)

    def callback(event):
        if event["event"] == "step" and event["step"] == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        ss.distill(x, loaded, out=tmp_path / "parts", callback=callback, **keywords)
    with pytest.raises(ValueError, match="resume=True"):
        ss.distill(x, loaded, out=tmp_path / "parts", **keywords)
    run = ss.distill(x, loaded, out=tmp_path / "parts", resume=True, **keywords)
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    assert files(tmp_path / "parts")[weights] == files(tmp_path / "theirs")[weights]
    # It samples in its own number of steps, and in others if asked, with a warning.
    student = run.load()
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(student.sample(2), student.sample(2, steps=2))
    with pytest.warns(UserWarning, match="distilled for 2 steps and has not learnt"):
        student.sample(2, steps=3)
    with pytest.warns(UserWarning, match="distilled for 2 steps"):
        list(student.trajectory(1, steps=3))
    with pytest.raises(ValueError, match="preset: fast"):
        student.sample(1, preset="fast")
    for wrong, message in [
        (dict(steps=3), "distill.from"),
        (dict(weights="raw"), "weights"),
        (dict(guidance=2.0), "null class"),
        (dict(recipe="[model]\nchannels = 1\n"), "remove"),
    ]:
        with pytest.raises(ValueError, match=message):
            ss.distill(x, loaded, out=tmp_path / "no", **(keywords | wrong))
    assert not (tmp_path / "no").exists()


def test_arrays_and_keywords(tmp_path):
    keywords = dict(
        model={"block_out_channels": [16, 32], "attention": [False, False], "mid_attention": False},
        train={"steps": 3, "batch": 4, "preview_every": 0},
        optimizer={"lr": 1e-3},
        set={"diffusion.prediction": "v_prediction"},
        seed=5,
        progress=False,
    )
    x = discs(8)
    for name, data in [("u8", x), ("nhwc", x.transpose(0, 2, 3, 1)), ("float", x / 127.5 - 1)]:
        run = ss.train(data, out=tmp_path / name, **keywords)
        assert run.load().prediction == "v_prediction"
    made = [files(tmp_path / name) for name in ("u8", "nhwc", "float")]
    assert made[0] == made[1] == made[2]
    again = ss.train(x, out=tmp_path / "more", init=tmp_path / "u8/model", **keywords)
    assert again.load().hash != ss.load(tmp_path / "u8/model").hash
    labelled = ss.train(x, out=tmp_path / "labels", labels=[i % 3 for i in range(8)],
                        **{**keywords, "set": {"data.classes": True}})
    assert labelled.load().classes == 3


def test_what_is_wrong_is_said(recipe, tmp_path):
    x = discs(8)
    for wrong, match in [
        (dict(train={"stepz": 3}), "steps"),
        (dict(train={"steps": 0}), "steps"),
        (dict(set={"trane.steps": 3}), "train"),
        (dict(recipe="[model]\nsample_size = [16, 16]\n"), "array"),
        (dict(labels=[1]), "labels"),
        (dict(weights="ema"), "init"),
    ]:
        with pytest.raises(ValueError, match=match):
            ss.train(x, out=tmp_path / "x", **{"recipe": recipe, **wrong})
    with pytest.raises(FileNotFoundError):
        ss.train(x, "missing.toml", out=tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="missing"):
        ss.train("missing/", recipe, out=tmp_path / "x")
    with pytest.raises(ValueError, match="npy"):
        ss.train(np.full((2, 1, 8, 8), 0.123), recipe, out=tmp_path / "x")
    with pytest.raises(ValueError, match="shape"):
        ss.train(x[0], recipe, out=tmp_path / "x")
    ss.train(x, recipe, out=tmp_path / "x", set={"train.steps": 1}, progress=False)
    with pytest.raises(ValueError, match="resume=True"):
        ss.train(x, recipe, out=tmp_path / "x", set={"train.steps": 1})
