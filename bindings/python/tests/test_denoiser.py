"""Networks of the caller's, against closed forms and NumPy."""

import pickle

import numpy as np
import pytest

import skipstone as ss

SCHEDULE = ss.Schedule.linear(1e-4, 0.02, 1000)


def test_schedules_are_their_formulas():
    betas = np.linspace(1e-4, 0.02, 1000)
    assert np.allclose(SCHEDULE.betas, betas, rtol=1e-14)
    assert np.allclose(SCHEDULE.alpha_bars, np.cumprod(1 - betas), rtol=1e-12)
    scaled = ss.Schedule.scaled_linear(0.00085, 0.012, 1000)
    assert np.allclose(scaled.betas, np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, rtol=1e-13)
    f = np.cos((np.arange(101) / 100 + 0.008) / 1.008 * np.pi / 2) ** 2
    assert np.allclose(ss.Schedule.cosine(100).betas, np.minimum(1 - f[1:] / f[:-1], 0.999), rtol=1e-10)
    own = ss.Schedule.from_betas([0.1, 0.2, 0.3])
    assert len(own) == own.steps == 3 and np.allclose(own.alpha_bars, [0.9, 0.72, 0.504])
    assert SCHEDULE.with_zero_snr().alpha_bars[-1] == 0
    for schedule in (SCHEDULE, scaled, own, SCHEDULE.with_zero_snr()):
        assert pickle.loads(pickle.dumps(schedule)) == schedule
    config = {"beta_start": np.float64(0.001), "beta_end": 0.01, "num_train_timesteps": 10, "clip_sample": False}
    assert len(ss.Schedule.from_config(config)) == 10
    with pytest.raises(ValueError, match="betas"):
        ss.Schedule.linear(0.5, 1.5, 10)
    with pytest.raises(ValueError, match="beta_schedule"):
        ss.Schedule.from_config({"beta_schedule": "exp"})
    with pytest.raises(FileNotFoundError):
        ss.Schedule.from_config("missing/scheduler_config.json")


def test_a_plan_has_the_papers_coefficients(normal):
    sampler = ss.Sampler(ss.Denoiser(normal(SCHEDULE), (1, 2, 2)), schedule=SCHEDULE)
    a = np.concatenate([[1.0], SCHEDULE.alpha_bars])
    for eta in (0.0, 0.7, 1.0):
        plan = sampler.plan(steps=20, eta=eta)
        assert len(plan) == 20 and plan[0].t == 999 and plan[-1].s is None
        for step in plan:
            t, s = step.t + 1, 0 if step.s is None else step.s + 1
            sigma = eta * np.sqrt((1 - a[s]) / (1 - a[t])) * np.sqrt(1 - a[t] / a[s])
            assert step.a_t == pytest.approx(a[t], rel=1e-12) and step.a_s == pytest.approx(a[s], rel=1e-12)
            assert step.x0 == pytest.approx(np.sqrt(a[s]), rel=1e-12)
            assert step.z == pytest.approx(sigma, rel=1e-9, abs=1e-12)
            assert step.eps == pytest.approx(np.sqrt(max(1 - a[s] - sigma**2, 0)), rel=1e-9, abs=1e-7)
    # Those who keep x themselves get what the sampler makes.
    x = ss.latents(3, (1, 2, 2), seed=5).astype(np.float64)
    for i, c in enumerate(sampler.plan(steps=10, eta=1)):
        eps = normal(SCHEDULE)(x, c.t)
        x0 = (x - np.sqrt(1 - c.a_t) * eps) / np.sqrt(c.a_t)
        x = c.x0 * x0 + c.eps * eps + c.z * ss.noise(3, (1, 2, 2), i, seed=5)
    assert np.abs(np.asarray(sampler.sample(3, steps=10, eta=1, seed=5)) - x).max() < 1e-5
    with pytest.raises(ValueError, match="solver"):
        sampler.plan(solver="heun")
    with pytest.raises(ValueError, match="restart"):
        sampler.plan(steps=10, restart=(300, 800, 1))


def test_restart_calls_the_network_again_where_it_says(normal):
    seen = []
    eps = normal(SCHEDULE)
    sampler = ss.Sampler(ss.Denoiser(lambda x, t: seen.append(t) or eps(x, t), (1, 2, 2)), schedule=SCHEDULE)
    sampler.sample(times=[900, 600, 300, 100], restart=(300, 900, 2))
    assert seen == [900, 600] * 3 + [300, 100]
    # With the exact denoiser, the samples keep the data's mean and variance.
    x = np.asarray(sampler.sample(4000, steps=50, solver="unipc", restart=(300, 800, 2), seed=4))
    assert abs(x.mean() - 0.3) < 0.02 and abs(x.var() - 0.25) < 0.02


def test_samples_of_a_closed_form_have_its_mean_and_variance(normal):
    sampler = ss.Sampler(ss.Denoiser(normal(SCHEDULE), shape=(1, 8, 8)), schedule=SCHEDULE)
    for options in ({}, {"eta": 1, "steps": 500}, {"solver": "dpm++2m"}, {"solver": "heun"}):
        x = np.asarray(sampler.sample(64, **{"steps": 50, "seed": 1, **options}))
        assert abs(x.mean() - 0.3) < 0.03 and abs(x.var() - 0.25) < 0.03, options
    errors = [sampler.reconstruct(x, steps=steps)[1].mean() ** 0.5 for steps in (50, 200)]
    assert errors[1] < 0.35 * errors[0] < 0.05  # of first order in the step
    z = sampler.encode(x, steps=50, method="bdia")
    assert np.abs(np.asarray(sampler.decode(z, steps=50, method="bdia")) - x).max() < 1e-4


def test_all_prediction_types_are_one_network(normal):
    a, eps = SCHEDULE.alpha_bars, normal(SCHEDULE)
    x0 = lambda x, t: (x - np.sqrt(1 - a[t]) * eps(x, t)) / np.sqrt(a[t])
    v = lambda x, t: np.sqrt(a[t]) * eps(x, t) - np.sqrt(1 - a[t]) * x0(x, t)
    made = [
        np.asarray(ss.Sampler(ss.Denoiser(f, (1, 4, 4), p), schedule=SCHEDULE).sample(4, steps=10))
        for f, p in ((eps, "epsilon"), (x0, "sample"), (v, "v_prediction"))
    ]
    assert np.abs(made[0] - made[1]).max() < 1e-3 and np.abs(made[0] - made[2]).max() < 1e-3


def test_what_a_function_gets(normal):
    seen = []

    def f(x, t):
        seen.append((type(t), x.dtype, x.flags.c_contiguous, x.flags.writeable, x.shape))
        x[:] = 0  # its own copy
        return x

    ss.Sampler(ss.Denoiser(f, (2, 3, 4))).sample(5, steps=3, batch=4)
    assert set(seen) == {(int, np.dtype("float32"), True, True, (4, 2, 3, 4)), (int, np.dtype("float32"), True, True, (1, 2, 3, 4))}
    seen.clear()
    fractional = ss.Denoiser(lambda x, t: seen.append(t) or x, (1, 2, 2), fractional=True)
    ss.Sampler(fractional).sample(steps=7, spacing="karras")
    assert any(isinstance(t, float) for t in seen)
    whole = ss.Denoiser(lambda x, t: seen.append(t) or x, (1, 2, 2))
    seen.clear()
    ss.Sampler(whole).sample(steps=7, spacing="karras", solver="dpm2")
    assert all(isinstance(t, int) for t in seen)


def test_classes_and_guidance():
    calls = []

    def f(x, t, y):
        calls.append(list(y))
        assert y.dtype == np.int64
        return x * y.reshape(-1, 1, 1, 1).astype(np.float32) / 8

    sampler = ss.Sampler(ss.Denoiser(f, (1, 2, 2), classes=4, null_class=3))
    sampler.sample(3, steps=1, class_=[0, 2])
    assert calls[-1] == [0, 2, 0]
    sampler.sample(2, steps=1)
    assert calls[-1] == [3, 3]
    sampler.sample(2, steps=1, class_=1, guidance=2.0)
    assert calls[-1] == [1, 1, 3, 3]
    sampler.sample(2, steps=1, class_=1, guidance=2.0, guidance_interval=(0, 1))  # the only step has far more noise
    assert calls[-1] == [1, 1]
    with pytest.raises(ValueError, match="class"):
        sampler.sample(class_=4)
    with pytest.raises(ValueError, match="null_class"):
        ss.Denoiser(f, (1, 2, 2), classes=2, null_class=2)


def test_arrays_of_every_kind_are_right_or_refused(normal):
    eps, shape = normal(SCHEDULE), (1, 4, 4)
    expected = np.asarray(ss.Sampler(ss.Denoiser(eps, shape)).sample(2, steps=3))

    def sampled(change):
        return np.asarray(ss.Sampler(ss.Denoiser(lambda x, t: change(eps(x, t)), shape)).sample(2, steps=3))

    def frozen(x):
        x.flags.writeable = False
        return x

    wide = lambda x: np.repeat(x, 2, axis=3)[..., ::2]
    for change in (frozen, wide, lambda x: x.astype(">f4"), lambda x: x.astype(np.float64), np.asfortranarray, lambda x: x.tolist()):
        assert np.array_equal(sampled(change), expected)
    assert np.abs(sampled(lambda x: x.astype(np.float16)) - expected).max() < 1e-2
    for change, match in [
        (lambda x: x[:1], "shape"),
        (lambda x: x[0], "shape"),
        (lambda x: x[..., :0], "shape"),
        (lambda x: x.astype(np.int32), "int32"),
        (lambda x: x.astype(complex), "complex"),
        (lambda x: x * np.nan, "NaN"),
        (lambda x: "text", "expected"),
    ]:
        with pytest.raises(ValueError, match=match):
            sampled(change)
    # The same of what is given.
    sampler = ss.Sampler(ss.Denoiser(eps, shape))
    x = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32)
    z = sampler.encode(x, steps=3)
    for same in (frozen(x.copy()), wide(x), x.astype(">f4"), x.astype(np.float64), np.asfortranarray(x), x[::-1][::-1]):
        assert np.array_equal(sampler.encode(same, steps=3), z)
    for wrong in (x[0], x[:0], x[..., :3], x.astype(np.uint8), np.full_like(x, np.inf), None, "x", x.astype(object)):
        with pytest.raises((ValueError, TypeError)):
            sampler.encode(wrong, steps=3)
    with pytest.raises(ValueError, match="rows"):
        sampler.sample(3, latents=x)
    with pytest.raises(ValueError, match="noise"):
        sampler.sample(2, steps=3, eta=1, noise=np.zeros((2, 2, *shape), np.float32))


def test_the_likelihood_of_a_closed_form():
    """A normal network: exact density, and the bound above it."""
    schedule, variance, mean = ss.Schedule.linear(), 0.25, 0.3
    a = schedule.alpha_bars

    def eps(x, t):
        return np.sqrt(1 - a[t]) * (x - np.sqrt(a[t]) * mean) / (a[t] * variance + 1 - a[t])

    def vjp(x, t, cotangent):
        return eps(x, t), cotangent * np.sqrt(1 - a[t]) / (a[t] * variance + 1 - a[t])

    sampler = ss.Sampler(ss.Denoiser(eps, (1, 4, 4), vjp=vjp), schedule=schedule)
    x = (mean + 0.5 * np.random.default_rng(1).standard_normal((4, 1, 4, 4))).astype(np.float32)
    found = sampler.likelihood(x, method="ode", steps=100, dequantise=False)
    nats = (0.5 * np.log(2 * np.pi * variance) + (x.astype(np.float64) - mean) ** 2 / (2 * variance)).mean((1, 2, 3))
    assert np.abs(found.images - (nats + np.log(127.5)) / np.log(2)).max() < 2e-3
    assert found.images.mean() == pytest.approx(float(found))
    without = ss.Sampler(ss.Denoiser(eps, (1, 4, 4)), schedule=schedule)
    with pytest.raises(ValueError, match="vjp"):
        without.likelihood(x, method="ode")
    levels = np.round((x.clip(-1, 1) + 1) * 127.5) / np.float32(127.5) - 1
    bound = without.likelihood(levels, steps=200)
    assert float(bound) > float(sampler.likelihood(levels, method="ode", steps=100)) - 0.05
    assert len(bound.terms) == 200 and sum(t["bits"] for t in bound.terms) + bound.prior_bits == pytest.approx(float(bound))


def test_a_denoisers_calibration_serves_its_own_sampler(normal):
    schedule = ss.Schedule.linear(1e-3, 0.1, 50)
    sampler = ss.Sampler(ss.Denoiser(normal(schedule), (1, 4, 4)), schedule=schedule)
    x = (0.3 + 0.5 * np.random.default_rng(1).standard_normal((32, 1, 4, 4))).astype(np.float32)
    sampler.calibrate(x)
    made = np.asarray(sampler.sample(256, steps=5, sigma="analytic", spacing="optimal"))
    assert abs(made.var() - 0.25) < 0.05
    other = ss.Sampler(ss.Denoiser(normal(schedule), (1, 4, 4), name="another"), schedule=schedule)
    other.calibration = sampler.calibration
    with pytest.raises(ValueError, match="calibration"):
        other.sample(sigma="analytic")


def test_a_schedule_that_says_another_prediction_is_refused(normal):
    stated = ss.Schedule.from_config({"prediction_type": "v_prediction"})
    with pytest.raises(ValueError, match="v_prediction"):
        ss.Sampler(ss.Denoiser(normal(SCHEDULE), (1, 2, 2)), schedule=stated)
    with pytest.raises(ValueError, match="prediction"):
        ss.Denoiser(normal(SCHEDULE), (1, 2, 2), "noise")
    with pytest.raises(TypeError):
        ss.Denoiser(3, (1, 2, 2))
    with pytest.raises(ValueError, match="shape"):
        ss.Denoiser(normal(SCHEDULE), (1, 0, 2))


def test_a_weaker_denoiser_guides_another_one(normal):
    schedule = ss.Schedule.linear(1e-3, 0.1, 50)
    eps = normal(schedule)
    strong = ss.Sampler(ss.Denoiser(eps, (1, 4, 4)), schedule=schedule)
    weak = ss.Sampler(ss.Denoiser(lambda x, t: 0.5 * eps(x, t), (1, 4, 4)), schedule=schedule)
    one = {"steps": 1, "clip": "off"}
    a, b = (np.asarray(sampler.sample(3, **one)) for sampler in (strong, weak))
    strong.guide_by(weak)
    # x0 of a single step is linear in the prediction.
    assert np.allclose(strong.sample(3, guidance=3.0, **one), b + 3 * (a - b), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="guide: needs guidance"):
        strong.sample(3, **one)
    strong.guide_by(None)
    assert np.array_equal(strong.sample(3, **one), a)
    with pytest.raises(TypeError, match="guide_by"):
        strong.sample(3, guide="weak", guidance=3.0)
    with pytest.raises(ValueError, match="guide: expected images of the shape"):
        strong.guide_by(ss.Sampler(ss.Denoiser(eps, (1, 2, 2)), schedule=schedule))
    # Kept images of one unnamed guide could not be told from those of another.
    named = ss.Sampler(ss.Denoiser(eps, (1, 4, 4), name="strong"), schedule=schedule)
    named.guide_by(weak)
    with pytest.raises(ValueError, match="names of the network and of its guide"):
        named.evaluate(np.zeros((8, 1, 4, 4), np.uint8), out="never", guidance=2.0)


def test_timesteps_are_fitted_to_the_path_of_a_denoiser(normal):
    schedule = ss.Schedule.linear(1e-3, 0.1, 50)
    sampler = ss.Sampler(ss.Denoiser(normal(schedule), (1, 4, 4)), schedule=schedule)
    x = (0.3 + 0.5 * np.random.default_rng(1).standard_normal((8, 1, 4, 4))).astype(np.float32)
    sampler.calibrate(x)
    with pytest.raises(ValueError, match="fitted=32"):
        sampler.sample(steps=4, spacing="fitted")
    sampler.calibrate(x, fitted=8)
    exact = np.asarray(sampler.sample(64, steps=50, solver="heun"))
    off = {s: np.square(np.asarray(sampler.sample(64, steps=4, spacing=s)) - exact).mean() for s in ("fitted", "linear")}
    assert off["fitted"] < off["linear"]
