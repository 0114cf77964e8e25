"""solvers.json: whole runs of k-diffusion's deterministic samplers on closed-form denoisers, in f64.

k-diffusion works in x̄ = x/√a and σ = √((1−a)/a), with a denoiser x̂₀(x̄, σ). Its samplers are given exactly the grid of one
of our trajectories, so that only the solver is compared.
"""

import importlib
import importlib.util
import sys
import types
from importlib import metadata

import torch

from .common import generator, normal, write_json
from .steps import exact_alpha_bar

SAMPLERS = {
    "ddim": ("sample_euler", {}),
    "heun": ("sample_heun", {}),
    "ab2": ("sample_lms", {"order": 2}),
    "ab3": ("sample_lms", {"order": 3}),
    "ab4": ("sample_lms", {"order": 4}),
    "dpm++2m": ("sample_dpmpp_2m", {}),
}
LENGTH, IMAGES, SHAPE = 1000, 3, (1, 2, 2)
# The weights, means and variances of a mixture of diagonal Gaussians.
MIXTURE = {
    "weight": [0.5, 0.3, 0.2],
    "mean": [[0.5, -0.3, 0.8, 0.1], [-0.7, 0.2, -0.1, 0.9], [0.0, 0.9, -0.8, -0.5]],
    "variance": [[0.04, 0.1, 0.02, 0.3], [0.05, 0.01, 0.2, 0.1], [0.3, 0.03, 0.1, 0.02]],
}
GRIDS = {
    "linear 10": [LENGTH * i // 10 for i in range(10, 0, -1)],
    "quadratic 12": [LENGTH * i * i // 144 for i in range(12, 0, -1)],
    "uneven": [1000, 997, 800, 333, 332, 120, 40, 2],
}


def sampling():
    """Loads only k_diffusion.sampling: the package's __init__ imports training code and its dependencies."""
    found = importlib.util.find_spec("k_diffusion")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    return importlib.import_module("k_diffusion.sampling")


class Denoiser:
    """E[x₀ | x̄] of the mixture, with x̄ = x₀ + σ·ε; counts its calls."""

    def __init__(self):
        self.weight, self.mean, self.variance = (torch.tensor(MIXTURE[k], dtype=torch.float64) for k in MIXTURE)
        self.calls = 0

    def __call__(self, x, sigma):
        self.calls += 1
        flat = x.reshape(len(x), 1, -1)
        total = self.variance + sigma.reshape(-1, 1, 1) ** 2
        deviation = flat - self.mean
        log = self.weight.log() - 0.5 * (deviation**2 / total + total.log()).sum(-1)
        x0 = self.mean + self.variance * deviation / total
        return (log.softmax(1)[:, :, None] * x0).sum(1).reshape(x.shape)


def problem():
    """What the cases of a file have in common: schedule, latents and data."""
    latents = normal(generator("solvers"), IMAGES, *SHAPE)
    return latents, {
        "schedule": "linear", "num_train_timesteps": LENGTH, "beta_start": 1e-4, "beta_end": 0.02,
        "shape": [IMAGES, *SHAPE], "latents": latents.flatten().tolist(), "mixture": MIXTURE,
    }


def make():
    library = sampling()
    alpha_bar = torch.as_tensor(exact_alpha_bar("linear", False))
    latents, common = problem()
    cases = []
    for grid, times in GRIDS.items():
        a = torch.stack([alpha_bar[t - 1] for t in times]).double()
        sigmas = torch.cat([((1 - a) / a) ** 0.5, torch.zeros(1, dtype=torch.float64)])
        for solver, (name, options) in SAMPLERS.items():
            denoiser = Denoiser()
            x = getattr(library, name)(denoiser, latents.double() / a[0] ** 0.5, sigmas, disable=True, **options)
            assert x.dtype == torch.float64
            cases.append({
                "solver": solver, "by": name, "grid": grid, "times": [t - 1 for t in times],
                "calls": denoiser.calls, "x0": x.flatten().tolist(),
            })
    write_json("solvers.json", {"k_diffusion": metadata.version("k-diffusion"), **common, "cases": cases})
