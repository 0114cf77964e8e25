"""schedules.json: β, a_t and 1 − a_t of every noise schedule."""

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from .common import write_json

SELECTED = [0, 1, 2, 3, 9, 10, 49, 99, 100, 249, 250, 499, 500, 749, 750, 900, 989, 990, 995, 997, 998, 999]


def betas64(kind, length, start=1e-4, end=0.02):
    """β by the published formulas, in f64."""
    if kind == "linear":
        return np.linspace(start, end, length)
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, length) ** 2
    if kind == "squaredcos_cap_v2":
        f = np.cos((np.arange(length + 1) / length + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - f[1:] / f[:-1], 0.999)
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-np.linspace(-6, 6, length))) * (end - start) + start
    if kind == "const":
        return np.full(length, end)
    if kind == "jsd":
        return 1.0 / np.arange(length, 0, -1.0)
    raise ValueError(kind)


def accumulate(betas):
    """a and 1 − a, both accumulated in extended precision, so that neither loses digits where it is small."""
    a, n = np.longdouble(1), np.longdouble(0)
    alpha_bar, noise = [], []
    for beta in betas.astype(np.longdouble):
        n = n + a * beta
        a = a * (1 - beta)
        alpha_bar.append(a)
        noise.append(n)
    return np.array(alpha_bar, np.float64), np.array(noise, np.float64)


def zero_snr(betas):
    """Rescales to zero terminal SNR: √a is shifted and scaled to end at 0 and to start where it did."""
    root = np.sqrt(np.cumprod(1 - betas.astype(np.longdouble)))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    a = root**2
    return (1 - a / np.concatenate([[np.longdouble(1)], a[:-1]])).astype(np.float64)


def diffusers_scheduler(kind, length, rescale, start=1e-4, end=0.02):
    """diffusers' scheduler with this schedule; None if it has none."""
    options = dict(num_train_timesteps=length, beta_start=start, beta_end=end, beta_schedule=kind)
    if kind in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        return DDIMScheduler(**options, rescale_betas_zero_snr=rescale)
    if kind == "sigmoid":
        return DDPMScheduler(**options, rescale_betas_zero_snr=rescale)
    return None


def case(kind, length, rescale, start=1e-4, end=0.02):
    betas = betas64(kind, length, start, end)
    if rescale:
        betas = zero_snr(betas)
    alpha_bar, noise = accumulate(betas)
    index = SELECTED if length == 1000 else list(range(length))
    out = {
        "schedule": kind,
        "num_train_timesteps": length,
        "beta_start": start,
        "beta_end": end,
        "rescale_betas_zero_snr": rescale,
        "index": index,
        "beta": betas[index].tolist(),
        "alpha_bar": alpha_bar[index].tolist(),
        "one_minus_alpha_bar": noise[index].tolist(),
        "sum_beta": float(betas.sum()),
        "sum_alpha_bar": float(alpha_bar.sum()),
    }
    scheduler = diffusers_scheduler(kind, length, rescale, start, end)
    if scheduler is not None:
        found = scheduler.alphas_cumprod.double().numpy()
        # The two must agree as far as diffusers' f32 allows, or one of them is wrong.
        np.testing.assert_allclose(scheduler.betas.double().numpy(), betas, rtol=3e-3, atol=2e-7)
        np.testing.assert_allclose(found, alpha_bar, rtol=2e-4, atol=2e-7)
        out["diffusers"] = {
            "class": type(scheduler).__name__,
            "beta": scheduler.betas[index].double().tolist(),
            "alpha_bar": found[index].tolist(),
            "sum_alpha_bar": float(found.sum()),
        }
    return out


def make():
    cases = []
    for length in (10, 50, 1000):
        for kind in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"):
            cases += [case(kind, length, False), case(kind, length, True)]
        cases += [case("const", length, False), case("jsd", length, False)]
    # Stable Diffusion's schedule, and a short one with large β.
    cases += [case("scaled_linear", 1000, False, 0.00085, 0.012), case("linear", 50, False, 0.01, 0.3)]
    trained = [0.01, 0.02, 0.05, 0.1, 0.3, 0.6]
    alpha_bar, noise = accumulate(np.array(trained))
    found = DDIMScheduler(num_train_timesteps=6, trained_betas=trained).alphas_cumprod
    torch.testing.assert_close(found.double(), torch.from_numpy(alpha_bar), rtol=1e-6, atol=0)
    cases.append({
        "schedule": "trained_betas", "num_train_timesteps": 6, "rescale_betas_zero_snr": False, "trained_betas": trained,
        "index": list(range(6)), "beta": trained, "alpha_bar": alpha_bar.tolist(), "one_minus_alpha_bar": noise.tolist(),
        "sum_beta": sum(trained), "sum_alpha_bar": float(alpha_bar.sum()),
        "diffusers": {"class": "DDIMScheduler", "beta": torch.tensor(trained).double().tolist(),
                      "alpha_bar": found.double().tolist(), "sum_alpha_bar": float(found.double().sum())},
    })
    write_json("schedules.json", {"cases": cases})
