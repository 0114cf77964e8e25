"""Models against the command: the same options give the same bytes."""

import numpy as np
import pytest
from conftest import discs

import skipstone as ss


@pytest.mark.parametrize(
    "flags, options",
    [
        ([], {}),
        (["--eta", "1", "--seed", "3"], {"eta": 1, "seed": 3}),
        (["--sigma", "hat", "--first", "5"], {"sigma": "hat", "first": 5}),
        (["--solver", "dpm++2m", "--spacing", "karras"], {"solver": "dpm++2m", "spacing": "karras"}),
        (["--clip", "rederive-eps", "--threshold", "0.95,1.5"], {"clip": "rederive-eps", "threshold": (0.95, 1.5)}),
        *((["--solver", name], {"solver": name}) for name in ("dpm++3m", "unipc", "unipc3", "deis", "deis2", "sa")),
        (["--restart", "300,800,2"], {"restart": (300, 800, 2)}),
        (["--preset", "fast"], {"preset": "fast"}),
        (["--solver", "auto"], {"solver": "auto"}),
        (["--sigma", "analytic", "--spacing", "optimal"], {"sigma": "analytic", "spacing": "optimal"}),
    ],
)
def test_samples_are_the_commands_to_the_byte(model, command, tmp_path, flags, options):
    command("sample", "-n", 3, "--steps", 4, *flags, "-o", tmp_path / "x.npy")
    ours = model.sample(3, steps=4, progress=False, **options)
    ours.save(tmp_path / "y.npy")
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.asarray(ours))


def test_explicit_times_and_given_noise(model, command, tmp_path):
    x_t, z = ss.latents(2, model.shape, seed=9), np.stack([ss.noise(2, model.shape, i, seed=9) for i in range(3)])
    np.save(tmp_path / "x_t.npy", x_t), np.save(tmp_path / "z.npy", z)
    files = ["--latents", tmp_path / "x_t.npy", "--noise", tmp_path / "z.npy"]
    command("sample", "--times", "999,500,17", "--eta", 0.5, *files, "-o", tmp_path / "x.npy")
    ours = model.sample(times=[999, 500, 17], eta=0.5, latents=x_t, noise=z)
    assert np.array_equal(np.load(tmp_path / "x.npy"), ours)
    assert np.array_equal(model.sample(2, times=[999, 500, 17], eta=0.5, seed=9), ours)


def test_pictures_and_folders_are_the_commands(model, command, tmp_path):
    ours = model.sample(5, steps=3, seed=2)
    (tmp_path / "ours").mkdir(), (tmp_path / "theirs").mkdir()
    for name in ("grid.png", "folder/"):
        command("sample", "-n", 5, "--steps", 3, "--seed", 2, "-o", f"{tmp_path}/theirs/{name}")
    ours.save(tmp_path / "ours/grid.png")
    ours.save(tmp_path / "ours/folder")
    assert (tmp_path / "theirs/grid.png").read_bytes() == (tmp_path / "ours/grid.png").read_bytes()
    for file in (tmp_path / "theirs/folder").iterdir():
        if file.suffix in (".png", ".json"):
            assert file.read_bytes() == (tmp_path / "ours/folder" / file.name).read_bytes(), file.name
    # A folder of other options is refused.
    with pytest.raises(ValueError, match="steps"):
        model.sample(5, steps=2, seed=2).save(tmp_path / "ours/folder")


def test_images_do_not_depend_on_batch_threads_or_each_other(model):
    whole = np.asarray(model.sample(5, steps=3, eta=1))
    assert np.array_equal(model.sample(5, steps=3, eta=1, batch=2), whole)
    assert np.array_equal(model.sample(2, steps=3, eta=1, first=3), whole[3:])
    assert np.array_equal(ss.load(threads=1).sample(5, steps=3, eta=1), whole)


@pytest.mark.parametrize("method", ["ddim", "fixed-point", "bdia", "edict"])
def test_encode_and_decode_are_the_commands(model, command, tmp_path, method):
    x = np.asarray(model.sample(2, steps=5)).clip(-1, 1)
    np.save(tmp_path / "x.npy", x)
    steps = ["--steps", 6, "--method", method]
    command("encode", "--images", tmp_path / "x.npy", *steps, "-o", tmp_path / "z.npy")
    command("decode", "--latents", tmp_path / "z.npy", *steps, "-o", tmp_path / "y.npy")
    z = model.encode(x, steps=6, method=method)
    y = model.decode(z, steps=6, method=method)
    assert np.array_equal(np.load(tmp_path / "z.npy"), z)
    assert np.array_equal(np.load(tmp_path / "y.npy"), y)
    back, errors = model.reconstruct(x, steps=6, method=method)
    assert np.allclose(errors, ((np.asarray(back, np.float64) - x) ** 2).mean((1, 2, 3)) / 4)
    if method in ("bdia", "edict"):
        assert z.shape == (2, 2, 1, 28, 28) and errors.max() < 1e-6
    elif method == "ddim":
        assert np.array_equal(back, y)


def test_noise_is_encoded_and_makes_the_image_again(model):
    x = np.asarray(model.sample(2, steps=5)).clip(-1, 1)
    x_t, z, sigma = model.encode_noise(x, steps=8, eta=1, seed=4)
    assert z.shape == (8, 2, 1, 28, 28)
    back = model.sample(latents=x_t, noise=z, steps=8, eta=1, final_sigma=sigma, clip="off")
    assert np.abs(np.asarray(back) - x).max() < 1e-4
    with pytest.raises(ValueError, match="eta"):
        model.encode_noise(x, steps=8)
    with pytest.raises(ValueError, match="noise"):
        model.encode(x, steps=8, eta=1)


def test_interpolation_is_the_commands(model, command, tmp_path):
    command("interpolate", "--seeds", "1,2", "--points", 4, "--steps", 3, "-o", tmp_path / "x.npy")
    line = model.interpolate([1, 2], 4, steps=3)
    assert np.array_equal(np.load(tmp_path / "x.npy"), line)
    assert line.columns == 4
    assert np.array_equal(line[0], model.sample(1, seed=1, steps=3)[0])
    square = model.interpolate([1, 2, 3, 4], 3, steps=2)
    assert square.shape == (9, 1, 28, 28)
    ends = np.asarray(model.sample(2, steps=5)).clip(-1, 1)
    between = model.interpolate(ends, 3, steps=5)
    assert np.array_equal(between[0], model.decode(model.encode(ends, steps=5), steps=5)[0])


def test_inpainting_is_the_commands_and_keeps_what_is_known(model, command, tmp_path):
    pytest.importorskip("PIL")
    image = model.sample(1, steps=5, seed=1)
    image.pil()[0].save(tmp_path / "image.png")
    known = (image.images()[0, :, :, 0] / 127.5 - 1).astype(np.float32)
    mask = np.zeros((28, 28), np.uint8)
    mask[:14] = 255
    from PIL import Image

    Image.fromarray(mask).save(tmp_path / "mask.png")
    fill = ["--inpaint", tmp_path / "image.png", "--mask", tmp_path / "mask.png", "--resamples", 2, "--jump", 2]
    command("sample", "-n", 2, "--steps", 4, "--eta", 1, *fill, "-o", tmp_path / "x.npy")
    filled = model.inpaint(known[None], mask, 2, steps=4, eta=1, resamples=2, jump=2)
    assert np.array_equal(np.load(tmp_path / "x.npy"), filled)
    assert np.array_equal(filled[0][0, 14:], known[14:])


def test_a_trajectory_is_the_run_step_by_step(model):
    for options in ({"eta": 1}, {"solver": "ab3"}, {"solver": "heun"}):
        steps = list(model.trajectory(2, steps=5, seed=3, first=4, **options))
        assert [step.step for step in steps] == [1, 2, 3, 4, 5]
        assert steps[0].t == 999 and steps[-1].s is None
        assert [step.s for step in steps[:-1]] == [step.t for step in steps[1:]]
        assert np.array_equal(steps[-1].x, model.sample(2, steps=5, seed=3, first=4, **options))
    seen = []
    model.sample(3, steps=5, batch=2, callback=seen.append)
    assert [(step.first, step.step) for step in seen] == [(f, s) for f in (0, 2) for s in range(1, 6)]
    run = model.trajectory(1, steps=500)
    assert len(run) == 500 and next(run).step == 1 and next(run).step == 2  # made as they are asked for


def test_likelihood_and_calibration_are_the_commands(tiny, trained, command, tmp_path):
    x = (discs(6) / 127.5 - 1).astype(np.float32)
    np.save(tmp_path / "x.npy", discs(6))
    import json

    data = ["--model", trained.path, "--data", tmp_path / "x.npy", "-n", 6, "--json"]
    theirs = json.loads(command("likelihood", *data, "--steps", 20).stdout)
    ours = tiny.likelihood(x, steps=20)
    assert (ours.bits_per_dim, ours.standard_error) == (theirs["bits_per_dim"], theirs["standard_error"])
    assert ours.terms == theirs["terms"] and ours.prior_bits == theirs["prior_bits"]
    theirs = json.loads(command("likelihood", *data, "--steps", 10, "--method", "ode", "--probes", 2).stdout)
    ours = tiny.likelihood(x, steps=10, method="ode", probes=2)
    assert (float(ours), ours.probe_error) == (theirs["bits_per_dim"], theirs["probe_error"])
    assert ours.images.shape == (6,) and ours.latents.shape == (6, 1, 8, 8)

    command("calibrate", "--model", trained.path, "--data", tmp_path / "x.npy", "-n", 6, "-o", tmp_path / "c.json")
    other = trained.load()
    assert other.calibration is None
    with pytest.raises(ValueError, match="calibration"):
        other.sample(steps=5, sigma="analytic")
    found = other.calibrate(x)
    theirs = ss.Calibration.load(tmp_path / "c.json")
    assert np.array_equal(found.eps_squares, theirs.eps_squares) and np.array_equal(found.x0_errors, theirs.x0_errors)
    found.save(tmp_path / "d.json")
    tiny.calibration = ss.Calibration.load(tmp_path / "d.json")
    assert np.array_equal(tiny.sample(2, steps=5, sigma="analytic"), other.sample(2, steps=5, sigma="analytic"))
    tiny.calibration = None


def test_what_is_missing_or_wrong_is_a_builtin_exception(tmp_path):
    with pytest.raises(FileNotFoundError, match="no/such/folder"):
        ss.load("no/such/folder")
    with pytest.raises(FileNotFoundError, match="hf download no-such/model"):
        ss.load("no-such/model")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="broken.safetensors"):
        ss.load(tmp_path / "broken.safetensors")
    model = ss.load()
    for wrong, match in [
        ({"steps": 0}, "steps"),
        ({"steps": 2000}, "2000"),
        ({"eta": -1}, "eta"),
        ({"eta": float("nan")}, "finite"),
        ({"solver": "rk9"}, "solver"),
        ({"spacing": "odd"}, "spacing"),
        ({"times": [5, 5]}, "times"),
        ({"times": [1, 0], "steps": 3}, "steps"),
        ({"restart": (300, 200, 1)}, "restart"),
        ({"restart": (300, 800, 1), "eta": 1}, "restart"),
        ({"class_": 3}, "class"),
        ({"seed": -1}, "seed"),
        ({"batch": 0}, "batch"),
    ]:
        with pytest.raises(ValueError, match=match):
            model.sample(**wrong)
    with pytest.raises(ValueError, match="n: expected at least 1"):
        model.sample(0)
    with pytest.raises(TypeError, match='unexpected keyword argument "stepz"; did you mean "steps"'):
        model.sample(stepz=3)
    with pytest.raises(TypeError, match="load"):
        model.sample(precision="f16")
    with pytest.raises(TypeError):
        model.sample(steps=object())
    for wrong in ({"weights": "best"}, {"precision": "f64"}, {"device": "abacus"}, {"threads": 0}, {"size": (0, 3)}):
        with pytest.raises(ValueError):
            ss.load(**wrong)


def test_a_model_says_what_it_is(model, trained):
    assert model.shape == (1, 28, 28) and model.prediction in ("epsilon", "v_prediction")
    assert model.parameters > 1000 and len(model.hash) == 64 and model.classes is None and model.path is None
    assert repr(model).startswith("Model(built-in")
    again = ss.load(trained.path, weights="raw", precision="f16", threads=1)
    assert (again.weights, again.precision, again.threads) == ("raw", "f16", 1)
    assert again.provenance["steps"] == "60"
    assert len(model.schedule) == 1000


def test_half_precision_is_the_commands(model, command, tmp_path):
    command("sample", "-n", 1, "--steps", 2, "--precision", "f16", "-o", tmp_path / "x.npy")
    assert np.array_equal(np.load(tmp_path / "x.npy"), ss.load(precision="f16").sample(1, steps=2))
