"""inversion.json, inversion.safetensors: images to latents and back, by diffusers and by the papers' equations."""

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from . import unets
from .common import generator, normal, relative, write_json, write_tensors
from .steps import exact_alpha_bar, in_double

STEPS = 10
# Each network and its prediction type.
NETWORKS = [("cifar", "epsilon"), ("scale_shift", "v_prediction")]


def epsilon_of(model, prediction, table, x, index):
    """The noise that the network predicts for x at an index."""
    with torch.no_grad():
        out = model(x, index).sample
    if prediction == "epsilon":
        return out
    a = float(table[index])
    return a**0.5 * out + (1 - a) ** 0.5 * x


def by_diffusers(name, prediction):
    """Encodes and decodes over 0, 100, ..., 900. The scheduler is given ε̂ at the index where the state is."""
    config = unets.ARCHITECTURES[name]
    x0 = 0.5 * normal(generator(f"inversion {name}"), 2, config["in_channels"], *unets.size_of(config))
    table = exact_alpha_bar("linear", False)

    def trip(model, dtype):
        options = dict(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False, timestep_spacing="leading")
        up, down = DDIMInverseScheduler(**options), in_double(DDIMScheduler(**options), "linear", False)
        up.alphas_cumprod = table
        up.initial_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
        up.set_timesteps(STEPS)
        down.set_timesteps(STEPS)
        x = x0.to(dtype)
        for t in up.timesteps.tolist():
            # The state is one step below t. Clean data have no index of their own; the nearest is 0.
            eps = epsilon_of(model, prediction, table, x, max(t - 1000 // STEPS, 0))
            x = up.step(eps, t, x).prev_sample
        latent = x
        for t in down.timesteps.tolist():
            x = down.step(epsilon_of(model, prediction, table, x, t), t, x, eta=0.0).prev_sample
        return up.timesteps.tolist()[::-1], latent, x

    times, latent, back = trip(unets.in_double(unets.build(name)), torch.float64)
    _, stock_latent, stock_back = trip(unets.build(name), torch.float32)
    deviations = [relative(stock_latent, latent), relative(stock_back, back)]
    print(f"{name}: f32 deviates by {deviations[0]:.1e} and {deviations[1]:.1e}; latent rms "
          f"{float(latent.square().mean() ** 0.5):.3g}, mse {float((back - x0).square().mean()):.3g}")
    tensors = {f"{name}/x0": x0, f"{name}/x_t": latent.float(), f"{name}/back": back.float()}
    case = {"model": f"unet_{name}", "prediction": prediction, "times": times, "f32_deviation": max(deviations)}
    return tensors, case


# Two clusters of four pixels, N(±CENTRE, VARIANCE), whose optimal prediction has a closed form.
CENTRE = np.array([0.5, 0.3, -0.2, 0.6])
VARIANCE = 0.05


def cluster_noise(x, a):
    """The optimal ε̂ of x, [n, 4], at level a: the posterior mean of the noise."""
    total = a * VARIANCE + 1 - a
    # log p(x|+) − log p(x|−)
    logit = 2 * a**0.5 * (x @ CENTRE) / total
    weight = np.tanh(logit / 2)[:, None]
    return (1 - a) ** 0.5 * (x - a**0.5 * weight * CENTRE) / total


def levels(indices):
    """a, signal and noise (the papers' α and σ) from clean data upwards."""
    a = np.array([1.0, *[float(exact_alpha_bar("linear", False)[i]) for i in indices]])
    return a, a**0.5, (1 - a) ** 0.5


def bdia(x0, indices, gamma):
    """Zhang et al. 2023: z_(i+1) from z_i and z_(i−1), in their a_i and b_i. z_1 comes from plain DDIM."""
    a, alpha, sigma = levels(indices)
    step_a = [None, *(alpha[:-1] / alpha[1:])]
    step_b = [None, *(sigma[:-1] - sigma[1:] * alpha[:-1] / alpha[1:])]
    first = float(exact_alpha_bar("linear", False)[0])
    z = [x0, (x0 - step_b[1] * cluster_noise(x0, first)) / step_a[1]]
    for i in range(1, len(indices)):
        eps = cluster_noise(z[i], a[i])
        ahead = z[i] / step_a[i + 1] - step_b[i + 1] / step_a[i + 1] * eps
        z.append((z[i - 1] - step_a[i] * z[i] - step_b[i] * eps) / gamma + ahead)
    return z[-1], z[-2]


def edict(x0, indices, p):
    """Wallace et al. 2022, in the noising direction. The chains swap at every other step, counted in denoising order."""
    a, alpha, sigma = levels(indices)
    x, y = x0.copy(), x0.copy()
    for i in range(1, len(a)):
        scale = alpha[i - 1] / alpha[i]
        push = sigma[i - 1] - scale * sigma[i]
        swapped = (len(a) - 1 - i) % 2 == 1
        if swapped:
            x, y = y, x
        y_inter = (y - (1 - p) * x) / p
        x_inter = (x - (1 - p) * y_inter) / p
        y = (y_inter - push * cluster_noise(x_inter, a[i])) / scale
        x = (x_inter - push * cluster_noise(y, a[i])) / scale
        if swapped:
            x, y = y, x
    return x, y


def make():
    tensors, cases = {}, []
    for name, prediction in NETWORKS:
        made, case = by_diffusers(name, prediction)
        tensors |= made
        cases.append(case)
    x0 = (0.4 * normal(generator("inversion clusters"), 3, 4)).double().numpy()
    x0 = x0.astype(np.float32).astype(np.float64)
    indices = [99, 199, 349, 499, 749, 999]
    pairs = []
    for method, value in (("bdia", 1.0), ("bdia", 0.8), ("edict", 0.93), ("edict", 1.0)):
        first, second = (bdia if method == "bdia" else edict)(x0, indices, value)
        key = f"{method}/{value}"
        tensors[key] = torch.from_numpy(np.stack([first, second]))
        pairs.append({"method": method, "value": value, "tensor": key})
        print(f"{key}: rms {np.sqrt(np.mean(first**2)):.3g} and {np.sqrt(np.mean(second**2)):.3g}")
    tensors["clusters/x0"] = torch.from_numpy(x0).float()
    write_tensors("inversion.safetensors", tensors)
    write_json("inversion.json", {
        "schedule": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "cases": cases,
        "clusters": {"centre": CENTRE.tolist(), "variance": VARIANCE, "times": indices[::-1], "pairs": pairs},
    })
