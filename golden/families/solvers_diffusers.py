"""solvers_diffusers.json: whole runs of two of diffusers' schedulers on the mixture of solvers.json, and two spacings.

diffusers' own code runs in f64: inside its modules float32 means float64. Every run is repeated in NumPy from its equations
and from the recorded times alone.
"""

import sys
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, KDPM2DiscreteScheduler

from .common import generator, normal, relative, write_json
from .solvers import IMAGES, LENGTH, MIXTURE, SHAPE, Denoiser, problem
from .steps import exact_alpha_bar

OPTIONS = dict(num_train_timesteps=LENGTH, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
SDE = dict(algorithm_type="sde-dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero",
           lower_order_final=True)
# Our names of spacings, and how to ask diffusers for them.
SPACINGS = {
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "karras": {"timestep_spacing": "linspace", "use_karras_sigmas": True},
    "logsnr": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
}
DPM2_GRIDS = [("trailing", 6), ("trailing", 15), ("linspace", 6), ("linspace", 15), ("karras", 10), ("logsnr", 10)]
SDE_GRIDS = [("trailing", 5), ("trailing", 12), ("linspace", 5), ("linspace", 12)]
# The stock f32 scheduler may be this far from the exact run. With `karras` it tells the network rounded timesteps.
STOCK_LIMIT, ROUNDED_LIMIT = 2e-5, 1e-3

ALPHA_BAR = exact_alpha_bar("linear", False)
LOG_SIGMAS = np.log(np.sqrt((1 - ALPHA_BAR.numpy()) / ALPHA_BAR.numpy()))


class Doubled:
    """NumPy or torch, where float32 means float64."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        return getattr(self.library, "float64" if name == "float32" else name)


@contextmanager
def doubled(kind):
    """Lets the module of a scheduler compute in f64."""
    module = sys.modules[kind.__module__]
    with mock.patch.object(module, "np", Doubled(np)), mock.patch.object(module, "torch", Doubled(torch)):
        yield


def log_sigma(times):
    """log σ_ve at network indices; linear between two neighbours."""
    return np.interp(times, np.arange(LENGTH), LOG_SIGMAS)


def times_of(sigmas):
    """The network indices of noise levels, the inverse of `log_sigma`. Whole ones are exact."""
    times = np.interp(np.log(sigmas), LOG_SIGMAS, np.arange(LENGTH))
    near = times.round()
    return [int(n) if abs(t - n) < 1e-8 else float(t) for t, n in zip(times, near)]


class Network:
    """ε(x, t) of the mixture for x of the VP process; t may be fractional. Keeps the t's it was asked at."""

    def __init__(self):
        self.denoiser, self.asked = Denoiser(), []

    def __call__(self, x, t):
        self.asked.append(float(t))
        sigma = torch.tensor(np.exp(log_sigma(float(t))), dtype=torch.float64)
        scaled = x.double() * (1 + sigma**2) ** 0.5
        return ((scaled - self.denoiser(scaled, sigma)) / sigma).to(x.dtype)


def scheduler_of(kind, steps, options, exact):
    scheduler = kind(**OPTIONS, **options)
    if exact:
        scheduler.alphas_cumprod = ALPHA_BAR
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    return scheduler


def loop(scheduler, x, **noises):
    """diffusers' sampling loop: the result, and where the network was asked."""
    network = Network()
    for i, t in enumerate(scheduler.timesteps):
        out = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(out, t, x, **{key: noise[i] for key, noise in noises.items()}).prev_sample
    return x, network.asked


def predict(x, sigma):
    """ε in NumPy, from the density of x_t: −√(1 − a)·∇ log p(x)."""
    a = 1 / (1 + sigma**2)
    weight, mean, variance = (np.array(MIXTURE[k]) for k in MIXTURE)
    total = a * variance + 1 - a
    gap = np.sqrt(a) * mean - x[:, None, :]
    density = weight * np.exp(-0.5 * gap**2 / total).prod(-1) / np.sqrt(total).prod(-1)
    score = (density[:, :, None] * gap / total).sum(1) / density.sum(1)[:, None]
    return -np.sqrt(1 - a) * score


def dpm2_by_equations(x, times):
    sigmas = [*np.exp(log_sigma(times)), 0.0]
    x = x * np.sqrt(1 + sigmas[0] ** 2)
    for t, s in zip(sigmas, sigmas[1:]):
        slope = predict(x / np.sqrt(1 + t**2), t)
        if s > 0:
            middle = np.sqrt(t * s)
            slope = predict((x + (middle - t) * slope) / np.sqrt(1 + middle**2), middle)
        x = x + (s - t) * slope
    return x


def sde_by_equations(x, times, noise):
    sigmas, last = [*np.exp(log_sigma(times)), 0.0], None
    for i, (t, s) in enumerate(zip(sigmas, sigmas[1:])):
        a_t, a_s = 1 / (1 + t**2), 1 / (1 + s**2)
        x0 = data = (x - np.sqrt(1 - a_t) * predict(x, t)) / np.sqrt(a_t)
        if i > 0 and s > 0:
            data = x0 + 0.5 * np.log(t / s) / np.log(sigmas[i - 1] / t) * (x0 - last)
        gain = 1 - (s / t) ** 2
        x = np.sqrt(a_s / a_t) * (s / t) ** 2 * x + np.sqrt(a_s) * gain * data + np.sqrt((1 - a_s) * gain) * noise[i]
        last = x0
    return x


def dpm2(spacing, steps, latents):
    """KDPM2DiscreteScheduler: the state is x̄, and each σ but the first and the last is there twice."""
    kind, options = KDPM2DiscreteScheduler, SPACINGS[spacing]

    def start(scheduler):
        return latents.double() * (1 + scheduler.sigmas[0].double() ** 2) ** 0.5

    stock = scheduler_of(kind, steps, options, False)
    stock_x, _ = loop(stock, start(stock).float())
    with doubled(kind):
        exact = scheduler_of(kind, steps, options, True)
        timesteps = exact.timesteps.tolist()
        # σ₀, σ₁, σ₁, …, σ_S−1, σ_S−1, 0, 0, 0.
        sigmas = exact.sigmas.numpy()[[0, *range(1, 2 * steps - 1, 2)]]
        times = times_of(sigmas)
        # diffusers interpolates σ, not log σ, at fractional timesteps, and rounds those of `karras`. Here the network is
        # asked at the time of each σ, as diffusers itself does at the middles.
        exact.timesteps[::2] = torch.tensor(times, dtype=torch.float64)
        x, asked = loop(exact, start(exact))
    expected = dpm2_by_equations(latents.double().flatten(1).numpy(), times)
    return x, stock_x, expected, {"times": times, "asked": asked, "timesteps": timesteps, "calls": len(asked)}


def dpm_plus_plus_2m_sde(spacing, steps, latents):
    """DPMSolverMultistepScheduler, whose timesteps are whole. The noise of the last step is multiplied by 0."""
    kind, options = DPMSolverMultistepScheduler, {**SDE, **SPACINGS[spacing]}
    noise = normal(generator(f"dpm++2m-sde {spacing} {steps}"), steps, IMAGES, *SHAPE)
    stock_x, _ = loop(scheduler_of(kind, steps, options, False), latents, variance_noise=noise)
    with doubled(kind):
        exact = scheduler_of(kind, steps, options, True)
        times = exact.timesteps.tolist()
        x, asked = loop(exact, latents.double(), variance_noise=noise.double())
    assert asked == times == times_of(exact.sigmas.numpy()[:-1])
    expected = sde_by_equations(latents.double().flatten(1).numpy(), times, noise.double().flatten(2).numpy())
    return x, stock_x, expected, {"times": times, "calls": len(asked), "noise": noise.flatten(1).tolist()}


def run(solver, by, make_case, spacing, steps, latents):
    x, stock, expected, fields = make_case(spacing, steps, latents)
    assert x.dtype == torch.float64 and stock.dtype == torch.float32 and len(fields["times"]) == steps
    by_equations = relative(torch.from_numpy(expected), x.flatten(1))
    deviation = relative(stock, x)
    print(f"{solver} {spacing} {steps}: NumPy differs by {by_equations:.1e}, stock f32 by {deviation:.1e}")
    assert by_equations < 1e-9, by_equations
    assert deviation < (ROUNDED_LIMIT if spacing == "karras" else STOCK_LIMIT), deviation
    return {"solver": solver, "by": by, "grid": f"{spacing} {steps}", **fields, "stock_deviation": deviation,
            "x0": x.flatten().tolist()}


def spaced(spacing, steps):
    """Noise levels and times of EulerDiscreteScheduler, without the last σ = 0."""
    stock = scheduler_of(EulerDiscreteScheduler, steps, SPACINGS[spacing], False)
    with doubled(EulerDiscreteScheduler):
        exact = scheduler_of(EulerDiscreteScheduler, steps, SPACINGS[spacing], True)
    sigmas, times = exact.sigmas[:-1], exact.timesteps
    first, last = np.exp(LOG_SIGMAS[-1]), np.exp(LOG_SIGMAS[0])
    ramp = np.linspace(0, 1, steps)
    if spacing == "karras":
        expected = (first ** (1 / 7) + ramp * (last ** (1 / 7) - first ** (1 / 7))) ** 7
    else:
        expected = first * (last / first) ** ramp
    by_equations = relative(torch.from_numpy(expected).log(), sigmas.log())
    time_off = float(np.abs(np.array(times_of(expected)) - times.numpy()).max())
    deviation = relative(stock.sigmas[:-1], sigmas)
    stock_off = float((stock.timesteps.double() - times).abs().max())
    print(f"{spacing} {steps}: NumPy differs by {by_equations:.1e} and {time_off:.1e} in time, stock f32 by {deviation:.1e} "
          f"and {stock_off:.1e}")
    assert sigmas.dtype == times.dtype == torch.float64
    assert by_equations < 1e-12 and time_off < 1e-8 and deviation < 1e-5 and stock_off < 0.01
    return {"spacing": spacing, "steps": steps, "sigmas": sigmas.tolist(), "times": times.tolist()}


def make():
    latents, common = problem()
    cases = [run("dpm2", "KDPM2DiscreteScheduler", dpm2, *grid, latents) for grid in DPM2_GRIDS]
    cases += [run("dpm++2m-sde", "DPMSolverMultistepScheduler", dpm_plus_plus_2m_sde, *grid, latents)
              for grid in SDE_GRIDS]
    spacings = [spaced(name, steps) for name in ("karras", "logsnr") for steps in (5, 10, 20)]
    write_json("solvers_diffusers.json", {**common, "cases": cases, "spacings": spacings})
