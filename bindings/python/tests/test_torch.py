"""PyTorch networks against diffusers' own pipeline, and against PyTorch's autograd."""

import contextlib
import functools
import pickle

import numpy as np
import pytest
from conftest import discs

import skipstone as ss

torch = pytest.importorskip("torch", reason="PyTorch is not installed: wrapped networks are not tested")
torch.set_num_threads(1)

with contextlib.suppress(ImportError):
    import diffusers

needs_diffusers = pytest.mark.skipif("diffusers" not in globals(), reason="diffusers is not installed")

TINY = dict(layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, add_attention=False)
PLAIN = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
NETWORKS = [
    # architecture, scheduler, steps, eta
    (dict(sample_size=8, in_channels=3, out_channels=3, **PLAIN), dict(), 10, 0.0),
    (dict(sample_size=8, in_channels=1, out_channels=1, **PLAIN), dict(clip_sample=False), 10, 0.0),
    (dict(sample_size=16, in_channels=3, out_channels=3, **PLAIN), dict(beta_schedule="squaredcos_cap_v2"), 7, 0.0),
    (dict(sample_size=8, in_channels=2, out_channels=2, **PLAIN), dict(prediction_type="v_prediction"), 12, 0.0),
    (dict(sample_size=8, in_channels=3, out_channels=3, **PLAIN), dict(prediction_type="sample", clip_sample_range=2.0), 5, 0.0),
    (dict(sample_size=8, in_channels=3, out_channels=3, **PLAIN), dict(timestep_spacing="trailing", clip_sample=False), 10, 0.0),
    (dict(sample_size=8, in_channels=3, out_channels=3, **PLAIN), dict(timestep_spacing="trailing", clip_sample_range=1.5), 25, 0.0),
    (dict(sample_size=(8, 12), in_channels=3, out_channels=3, **PLAIN), dict(set_alpha_to_one=False, steps_offset=1), 10, 0.0),
    (dict(sample_size=8, in_channels=3, out_channels=3, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
          up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4), dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012), 10, 0.0),
    (dict(sample_size=8, in_channels=3, out_channels=3, **PLAIN), dict(num_train_timesteps=100, rescale_betas_zero_snr=True,
          prediction_type="v_prediction", timestep_spacing="trailing"), 10, 0.0),
]


@functools.lru_cache
def unet(k):
    """The k-th network, trained a little on discs, so that its runs stay within sensible numbers."""
    architecture, config, *_ = NETWORKS[k]
    torch.manual_seed(k)
    network = diffusers.UNet2DModel(**{**TINY, **architecture})
    scheduler = diffusers.DDPMScheduler.from_config(diffusers.DDIMScheduler(**config).config)
    size = architecture["sample_size"]
    h, w = (size, size) if isinstance(size, int) else size
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for _ in range(80):
        centre, radius = torch.rand(32, 2) * 4 + 2, torch.rand(32) * 1.5 + 1.5
        disc = (y - centre[:, :1, None]) ** 2 + (x - centre[:, 1:, None]) ** 2 < radius[:, None, None] ** 2
        x0 = (2.0 * disc - 1)[:, None].expand(-1, network.config.in_channels, -1, -1)
        noise, t = torch.randn(x0.shape), torch.randint(0, scheduler.config.num_train_timesteps, (32,))
        targets = {"epsilon": noise, "sample": x0, "v_prediction": scheduler.get_velocity(x0, noise, t)}
        found = network(scheduler.add_noise(x0, noise, t), t).sample
        loss = ((found - targets[scheduler.config.prediction_type]) ** 2).mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return network.eval()


@needs_diffusers
@pytest.mark.parametrize("k", range(10))
def test_a_pipeline_is_sampled_as_diffusers_samples_it(k):
    _, scheduler, steps, eta = NETWORKS[k]
    pipe = diffusers.DDIMPipeline(unet(k), diffusers.DDIMScheduler(**scheduler))
    pipe.set_progress_bar_config(disable=True)
    sampler = ss.torch.from_pipeline(pipe)
    x_t = torch.randn((2, *sampler.shape), generator=torch.Generator().manual_seed(k))
    theirs = pipe(2, torch.Generator().manual_seed(k), eta=eta, num_inference_steps=steps, output_type="np").images
    # The pipeline returns pictures: (x / 2 + 0.5) clamped, channels last.
    pictures = lambda x: (np.asarray(x) / 2 + 0.5).clip(0, 1).transpose(0, 2, 3, 1)
    ours = sampler.sample(latents=x_t.numpy(), steps=steps, eta=eta)
    assert np.abs(pictures(ours) - theirs).max() <= 1e-5
    on_device = ss.torch.sample(sampler, latents=x_t, steps=steps, eta=eta)
    assert np.abs(pictures(on_device) - theirs).max() <= 1e-5
    assert np.abs(on_device.numpy() - np.asarray(ours)).max() <= 2e-5 * max(1, np.abs(np.asarray(ours)).max())


@needs_diffusers
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_student_is_sampled_by_diffusers_pipeline_as_here(trained, steps, tmp_path):
    settings = {"steps": 30, "batch": 8, "preview_every": 0}
    run = ss.distill(discs(32), trained.path, steps=steps, from_steps=8, train=settings, out=tmp_path / "run", progress=False)
    pipe = diffusers.DDIMPipeline.from_pretrained(run.path)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(3, torch.Generator().manual_seed(1), num_inference_steps=steps, output_type="np").images
    x_t = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    # By itself, in as many steps as it was made for.
    ours = np.asarray(run.load().sample(latents=x_t.numpy()))
    assert np.abs((ours / 2 + 0.5).clip(0, 1).transpose(0, 2, 3, 1) - theirs).max() <= 1e-5
    assert ours.std() > 0.05


@needs_diffusers
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_noise_is_injected_as_diffusers_injects_it(eta):
    network = unet(0)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(6)
    sampler = ss.Sampler(ss.torch.wrap(network), schedule=ss.Schedule.from_config(scheduler.config))
    x_t, z = ss.latents(2, (3, 8, 8)), np.stack([ss.noise(2, (3, 8, 8), i) for i in range(6)])
    x = torch.from_numpy(x_t)
    with torch.no_grad():
        for t, noise in zip(scheduler.timesteps, torch.from_numpy(z)):
            x = scheduler.step(network(x, t).sample, t, x, eta=eta, variance_noise=noise).prev_sample
    options = dict(steps=6, eta=eta, spacing="leading")
    for ours in (
        sampler.sample(2, **options),
        ss.torch.sample(sampler, 2, **options),
        ss.torch.sample(sampler, noise=z, latents=x_t, **options),
    ):
        assert np.abs(np.asarray(ours) - x.numpy()).max() <= 2e-6 * np.abs(x.numpy()).max()


@needs_diffusers
def test_a_saved_pipeline_is_the_same_in_our_engine(tmp_path):
    pipe = diffusers.DDIMPipeline(unet(0), diffusers.DDIMScheduler())
    pipe.save_pretrained(tmp_path)
    ours, theirs = ss.load(tmp_path), ss.torch.from_pipeline(pipe)
    for options in ({}, {"eta": 1}, {"solver": "dpm++2m", "clip": "off"}, {"spacing": "karras", "solver": "heun", "clip": "off"}):
        a, b = (np.asarray(s.sample(2, steps=8, **options)) for s in (ours, theirs))
        assert np.abs(a - b).max() < 2e-4 * max(1, np.abs(b).max()), options
    x = np.asarray(theirs.sample(2, steps=5)).clip(-1, 1)
    for method in ("ddim", "bdia"):
        assert np.abs(ours.encode(x, steps=10, method=method) - theirs.encode(x, steps=10, method=method)).max() < 2e-3
    a, b = ours.likelihood(x, method="ode", steps=10), theirs.likelihood(x, method="ode", steps=10)
    assert np.abs(a.images - b.images).max() < 1e-3


class Net(torch.nn.Module):
    """A smooth network of 48 inputs, with the time among them."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b = torch.nn.Linear(49, 64), torch.nn.Linear(64, 48)

    def forward(self, x, t):
        flat = torch.cat([x.flatten(1), t[:, None].to(x.dtype) / 1000], 1)
        return x * 0.7 + 0.3 * self.b(torch.tanh(self.a(flat))).reshape(x.shape)


def exact_bits(net, x0, times, schedule):
    """log p(x0) by Heun's method in float64 with the whole Jacobian at every point, and bits per dimension."""
    a = np.concatenate([[1.0], schedule.alpha_bars])
    net = net.double()
    phi = lambda t: np.arccos(np.sqrt(a[t]))

    def field(x, t):
        def v(x):  # v = (eps - sqrt(1-a) x) / sqrt(a)
            eps = net(x[None].reshape(1, 3, 4, 4), torch.tensor([t - 1]))[0].reshape(-1)
            return (eps - np.sqrt(1 - a[t]) * x) / np.sqrt(a[t])

        return v(x).detach(), torch.autograd.functional.jacobian(v, x).trace().item()

    bits = []
    for image in torch.from_numpy(x0.astype(np.float64)):
        x, integral = image.reshape(-1), 0.0
        for s, t in zip([0, *times[:-1]], times):
            h = phi(t) - phi(s)
            v0, d0 = field(x, max(s, 1))
            v1, d1 = field(x + h * v0, t)
            x, integral = x + h / 2 * (v0 + v1), integral + h / 2 * (d0 + d1)
        log_p = -0.5 * (x**2).sum().item() - 24 * np.log(2 * np.pi) + integral
        bits.append((np.log(127.5) - log_p / 48) / np.log(2))
    return np.array(bits)


def test_the_likelihood_of_a_wrapped_network_is_that_of_the_exact_trace():
    schedule = ss.Schedule.linear(1e-4, 0.02, 1000)
    sampler = ss.Sampler(ss.torch.wrap(Net(), (3, 4, 4)), schedule=schedule)
    x0 = np.random.default_rng(3).uniform(-1, 1, (3, 3, 4, 4)).astype(np.float32)
    times = [0, 10, 50, 120, 250, 400, 600, 800, 999]
    found = sampler.likelihood(x0, method="ode", times=times[::-1], probes=300, dequantise=False)
    expected = exact_bits(Net(), x0, [t + 1 for t in times], schedule)
    error = found.images.mean() - expected.mean()
    assert abs(error) < 4 * found.probe_error and found.probe_error < 0.02
    # The latents do not depend on the probes.
    few = sampler.likelihood(x0, method="ode", times=times[::-1], probes=2, dequantise=False)
    assert np.array_equal(few.latents, found.latents)
    assert abs(few.images.mean() - expected.mean()) < 5 * few.probe_error


def test_the_product_is_autograds():
    net = Net()
    x, c = (np.random.default_rng(i).standard_normal((2, 3, 4, 4)).astype(np.float32) for i in (1, 2))
    out, gradient = ss.torch.wrap(net, (3, 4, 4)).function.vjp(x, 300, c)
    j = torch.autograd.functional.jacobian(lambda x: net(x, torch.tensor([300, 300])), torch.from_numpy(x))
    assert np.allclose(gradient, np.einsum("nchw,nchwmdij->mdij", c, j.numpy()), atol=1e-5)
    assert np.allclose(out, net(torch.from_numpy(x), torch.tensor([300, 300])).detach())
    assert all(p.grad is None for p in net.parameters())


def test_fractional_timesteps_keep_their_digits_whatever_the_modules_type():
    asked = []

    def silent(x, t):
        asked.append(t)
        return 0 * x

    wrapped = ss.torch.wrap(silent, (3, 4, 4), dtype=torch.bfloat16, fractional=True)
    sampler = ss.Sampler(wrapped, schedule=ss.Schedule.linear())
    sampler.sample(1, steps=6, spacing="karras")
    times = [step.t for step in sampler.plan(steps=6, spacing="karras")]
    assert any(t != int(t) for t in times)
    assert [float(t[0]) for t in asked] == pytest.approx(times, rel=1e-6)


def test_modules_of_every_kind_are_the_same_denoiser():
    net, schedule = Net(), ss.Schedule.linear()
    made = lambda d: np.asarray(ss.Sampler(d, schedule=schedule).sample(3, steps=5))
    expected = made(ss.torch.wrap(net, (3, 4, 4)))

    class Output:
        def __init__(self, sample):
            self.sample = sample

    for returned in (lambda y: Output(y), lambda y: (y, None), lambda y: {"out": y}, lambda y: [y]):
        assert np.array_equal(made(ss.torch.wrap(lambda x, t: returned(net(x, t)), (3, 4, 4))), expected)
    call = lambda module, x, t: module(x, t.double())
    assert np.abs(made(ss.torch.wrap(net, (3, 4, 4), call=call)) - expected).max() < 1e-4
    assert np.abs(made(ss.torch.wrap(Net().double(), (3, 4, 4))) - expected).max() < 1e-4
    assert np.abs(made(ss.torch.wrap(Net().bfloat16(), (3, 4, 4))) - expected).max() < 0.5
    traced = torch.jit.trace(net, (torch.zeros(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64)))
    assert np.abs(made(ss.torch.wrap(traced, (3, 4, 4))) - expected).max() < 1e-5
    compiled = torch.compile(net, backend="eager")
    assert np.abs(made(ss.torch.wrap(compiled, (3, 4, 4))) - expected).max() < 1e-5
    again = pickle.loads(pickle.dumps(ss.torch.wrap(net, (3, 4, 4))))
    assert np.array_equal(made(again), expected) and isinstance(again, ss.torch.TorchDenoiser)
    again = pickle.loads(pickle.dumps(ss.Sampler(ss.torch.wrap(net, (3, 4, 4)), schedule=schedule)))
    assert np.array_equal(again.sample(3, steps=5), expected)
    with torch.no_grad(), torch.inference_mode():
        ss.Sampler(ss.torch.wrap(net, (3, 4, 4))).likelihood(np.zeros((1, 3, 4, 4), np.float32), method="ode", steps=3)


def test_the_loop_on_the_device_is_the_loop_over_numpy():
    d = ss.torch.wrap(Net(), (3, 4, 4))
    schedule = ss.Schedule.linear()
    for options in (
        {}, {"eta": 1}, {"sigma": "hat"}, {"clip": "keep-eps"}, {"clip": "rederive-eps", "eta": 0.3}, {"first": 7, "seed": 2, "eta": 1},
        {"times": [900, 400, 20]}, {"final_sigma": 0.1, "eta": 1},
    ):
        options = options if "times" in options else {"steps": 12, **options}
        expected = np.asarray(ss.Sampler(d, schedule=schedule).sample(3, **options))
        found = ss.torch.sample(d, 3, schedule=schedule, **options)
        assert found.dtype == torch.float32 and np.abs(found.numpy() - expected).max() < 2e-5 * max(1, np.abs(expected).max()), options
    seen = []
    ss.torch.sample(d, 2, steps=3, callback=lambda i, n, x: seen.append((i, n, tuple(x.shape))))
    assert seen == [(i, 3, (2, 3, 4, 4)) for i in (1, 2, 3)]
    labels = ss.torch.wrap(lambda x, t, y: x * y[:, None, None, None].to(x.dtype) / 9, (1, 2, 2), classes=10)
    for class_ in (3, np.int64(3), [1, 4], np.array([1, 4]), None):
        expected = np.asarray(ss.Sampler(labels).sample(3, steps=2, class_=class_, first=1))
        assert np.allclose(ss.torch.sample(labels, 3, steps=2, class_=class_, first=1), expected, atol=1e-5)
    learned = ss.torch.wrap(lambda x, t: torch.cat([x, 0.3 * x], 1), (1, 2, 2), learned_variance=True)
    expected = np.asarray(ss.Sampler(learned).sample(3, steps=6, sigma="learned"))
    assert np.allclose(ss.torch.sample(learned, 3, steps=6, sigma="learned"), expected, atol=1e-5)


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(ValueError, match="shape"):
        ss.torch.wrap(Net())
    with pytest.raises(TypeError, match="returned"):
        ss.Sampler(ss.torch.wrap(lambda x, t: "text", (1, 2, 2))).sample()
    with pytest.raises(RuntimeError, match="gradient"):
        ss.Sampler(ss.torch.wrap(lambda x, t: x.detach(), (1, 2, 2))).likelihood(np.zeros((1, 1, 2, 2), np.float32), method="ode")
    with pytest.raises(ValueError, match="pipeline"):
        ss.torch.from_pipeline(object())
    with pytest.raises(TypeError, match="wrap"):
        ss.torch.sample(ss.Denoiser(lambda x, t: x, (1, 2, 2)))
    for name, given in (("solver", "unipc"), ("restart", (300, 800, 1)), ("guidance", 2.0), ("guidance_interval", (0, 1)), ("threshold", (0.9, 2))):
        with pytest.raises(ValueError, match=name):
            ss.torch.sample(ss.torch.wrap(Net(), (3, 4, 4)), steps=10, **{name: given})
    guided = ss.Sampler(ss.torch.wrap(Net(), (3, 4, 4)))
    guided.guide_by(ss.Sampler(ss.torch.wrap(Net(), (3, 4, 4))))
    with pytest.raises(ValueError, match="guidance"):
        ss.torch.sample(guided, steps=4, guidance=2.0)
    with pytest.raises(ValueError, match="latents"):
        ss.torch.sample(ss.torch.wrap(Net(), (3, 4, 4)), latents=torch.zeros(1, 3, 4, 5))
