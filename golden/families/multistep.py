"""multistep.json: whole runs of multistep solvers on the mixture of solvers.json.

UniPC, DPM-Solver++(3M) and SA-Solver are diffusers' own schedulers in f64, as in solvers_diffusers.json, and every run is
repeated in NumPy from the papers' equations. DEIS and Restart are NumPy alone, from their definitions: diffusers' scheduler
called DEIS takes polynomials in log σ, and the authors' tAB takes them in t.
"""

import sys
from unittest import mock

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, SASolverScheduler, UniPCMultistepScheduler

from .common import generator, normal, relative, write_json
from .solvers import IMAGES, LENGTH, SHAPE, problem
from .solvers_diffusers import LOG_SIGMAS, STOCK_LIMIT, doubled, log_sigma, loop, predict, scheduler_of

GRIDS = [("trailing", 4), ("trailing", 10), ("trailing", 20), ("linspace", 12)]
ENDS_CLEAN = {"lower_order_final": True, "final_sigmas_type": "zero"}
SOLVERS = {
    "dpm++3m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 3, **ENDS_CLEAN}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2, "solver_type": "bh2", **ENDS_CLEAN}),
    "unipc3": (UniPCMultistepScheduler, {"solver_order": 3, "solver_type": "bh2", **ENDS_CLEAN}),
    # Its last step lands on the first trained level; τ is 1 for 200 ≤ t ≤ 800.
    "sa": (SASolverScheduler, {"predictor_order": 2, "corrector_order": 2, "lower_order_final": True}),
}
DEIS = {"deis2": 2, "deis": 3}


def data(x, sigma):
    """x̂₀ of x_t at σ_ve."""
    a = 1 / (1 + sigma**2)
    return (x - np.sqrt(1 - a) * predict(x, sigma)) / np.sqrt(a)


def scalars(sigma):
    """√a, √(1 − a) and λ."""
    a = 1 / (1 + sigma**2)
    with np.errstate(divide="ignore"):
        return np.sqrt(a), np.sqrt(1 - a), -np.log(sigma)


def dpm3m(x, sigmas, _):
    """x_s = σ_s/σ_t·x_t + √a_s·∫₀^h e^(u−h)·P(u) du for the polynomial P through the last x̂₀; D₁ and D₂ as the authors do."""
    known, steps = [], len(sigmas) - 1
    for i, (t, s) in enumerate(zip(sigmas, sigmas[1:])):
        known.append((scalars(t)[2], data(x, t)))
        left = steps - i
        order = min(3, len(known), 1 if left == 1 else 2 if left == 2 and steps < 15 else 3)
        (_, noise_t, lambda_t), (signal, noise, lambda_s) = scalars(t), scalars(s)
        h = lambda_s - lambda_t
        lambdas, values = zip(*known[::-1][:order])
        d0, d1, d2 = values[0], 0, 0
        if order >= 2:
            r0 = (lambdas[0] - lambdas[1]) / h
            d1 = slope0 = (values[0] - values[1]) / r0
        if order == 3:
            r1 = (lambdas[1] - lambdas[2]) / h
            slope1 = (values[1] - values[2]) / r1
            d1 = slope0 + r0 / (r0 + r1) * (slope0 - slope1)
            d2 = (slope0 - slope1) / (r0 + r1)
        x = noise / noise_t * x - signal * np.expm1(-h) * d0
        if order == 2:
            x = x - 0.5 * signal * np.expm1(-h) * d1
        if order == 3:
            x = x + signal * (np.expm1(-h) / h + 1) * d1 - signal * ((np.expm1(-h) + h) / h**2 - 0.5) * d2
    return x


def unipc(top):
    def run(x, sigmas, _):
        steps, known, before = len(sigmas) - 1, [], None
        for i, (t, s) in enumerate(zip(sigmas, sigmas[1:])):
            now = (scalars(t)[2], data(x, t))
            if before is not None:
                # The corrector repeats the last step from where it began.
                x = unipc_step(before[0], before[1], t, known[::-1][: before[2]], now)
            known.append(now)
            order = min(top, steps - i, i + 1)
            before = (x, t, order)
            x = unipc_step(x, t, s, known[::-1][:order], None)
        return x
    return run


def unipc_step(x, t, s, known, end):
    (_, noise_t, lambda_t), (signal, noise, lambda_s) = scalars(t), scalars(s)
    h = lambda_s - lambda_t
    base = known[0][1]
    x = noise / noise_t * x - signal * np.expm1(-h) * base
    nodes = [*known[1:], *([end] if end else [])]
    if not nodes:
        return x
    r = np.array([(place - lambda_t) / h for place, _ in nodes])
    differences = [(value - base) / ratio for ratio, (_, value) in zip(r, nodes)]
    if len(nodes) == 1:
        rho = np.array([0.5])
    else:
        # Moments of the exact integral: h/(1 − e^(−h))·∫₀¹ e^(h(u−1))·u^k du, by Gauss–Legendre.
        points, weights = np.polynomial.legendre.leggauss(60)
        u, weights = 0.5 * points + 0.5, 0.5 * weights
        moments = [h / -np.expm1(-h) * (weights * np.exp(h * (u - 1)) * u ** (k + 1)).sum() for k in range(len(nodes))]
        rho = np.linalg.solve(np.vander(r, increasing=True).T, moments)
    return x - signal * np.expm1(-h) * sum(p * d for p, d in zip(rho, differences))


def sa(x, sigmas, noises):
    steps, known, before = len(sigmas) - 1, [], None
    for i, (t, s) in enumerate(zip(sigmas, sigmas[1:])):
        now = (scalars(t)[2], data(x, t))
        if before is not None:
            x = sa_step(*before, (now, known[-1]))
        known.append(now)
        pair = (known[-1], known[-2]) if i > 0 and i + 1 < steps else None
        before = (x, t, s, noises[i], now)
        x = sa_step(*before, pair)
    return x


def sa_step(x, t, s, z, base, pair):
    """x̂₀ = base + slope·(λ − λ_t), with the slope of `pair`; the integral of the slope's part is that of short steps."""
    index = np.interp(np.log(t), LOG_SIGMAS, np.arange(LENGTH))
    tau = 1.0 if 200 <= round(index) <= 800 else 0.0
    (_, noise_t, lambda_t), (signal, noise, lambda_s) = scalars(t), scalars(s)
    h, k = lambda_s - lambda_t, 1 + tau**2
    x = noise / noise_t * np.exp(-(tau**2) * h) * x + signal * -np.expm1(-k * h) * base[1]
    if pair:
        (to, last), (start, first) = pair
        x = x + signal * k * h**2 / 2 * (last - first) / (to - start)
    return x + noise * np.sqrt(-np.expm1(-2 * tau**2 * h)) * z


def deis(top):
    def run(x, sigmas, _):
        """x̄_s = x̄_t + Σ ε_j·∫ ℓ_j(t(σ)) dσ, over σ itself: t(σ) is linear in log σ between indices, and below the first."""
        x, known = x * np.sqrt(1 + sigmas[0] ** 2), []
        trained = np.exp(LOG_SIGMAS)
        points, weights = np.polynomial.legendre.leggauss(12)
        for t, s in zip(sigmas, sigmas[1:]):
            known.insert(0, (time_of(t), predict(x / np.sqrt(1 + t**2), t)))
            known = known[:top]
            edges = [s, *trained[(trained > s) & (trained < t)], t]
            places, values = zip(*known)
            total = np.zeros(len(known))
            for low, high in zip(edges, edges[1:]):
                for point, weight in zip(0.5 * (high - low) * points + 0.5 * (high + low), 0.5 * (high - low) * weights):
                    total -= weight * lagrange(np.array(places), time_of(point))
            x = x + sum(w * value for w, value in zip(total, values))
        return x
    return run


def time_of(sigma):
    """The timestep from 1 of a noise level; clean data is at 0."""
    first = np.exp(LOG_SIGMAS[0])
    return sigma / first if sigma < first else 1 + np.interp(np.log(sigma), LOG_SIGMAS, np.arange(LENGTH))


def lagrange(nodes, at):
    others = [[(at - b) / (a - b) for b in nodes if b != a] for a in nodes]
    return np.array([np.prod(factors) for factors in others])


EQUATIONS = {"dpm++3m": dpm3m, "unipc": unipc(2), "unipc3": unipc(3), "sa": sa}


def by_diffusers(solver, spacing, steps, latents):
    kind, options = SOLVERS[solver]
    options = {**options, "timestep_spacing": spacing}
    noise = normal(generator(f"multistep {solver} {spacing} {steps}"), steps, IMAGES, *SHAPE) if solver == "sa" else None
    # SA-Solver draws its noise itself.
    rows = iter([]) if noise is None else iter(noise)
    drawing = mock.patch.object(sys.modules[SASolverScheduler.__module__], "randn_tensor",
                                lambda *_, dtype, **__: next(rows).to(dtype))
    with drawing:
        stock_x, _ = loop(scheduler_of(kind, steps, options, False), latents)
        rows = iter([]) if noise is None else iter(noise)
        with doubled(kind):
            exact = scheduler_of(kind, steps, options, True)
            x, asked = loop(exact, latents.double())
    times = exact.timesteps.tolist()
    assert asked == times
    sigmas = np.exp(log_sigma(np.array(times, dtype=float)))
    end = np.exp(LOG_SIGMAS[0]) if solver == "sa" else 0.0
    noises = None if noise is None else noise.double().flatten(2).numpy()
    expected = EQUATIONS[solver](latents.double().flatten(1).numpy(), [*sigmas, end], noises)
    by_equations = relative(torch.from_numpy(expected), x.flatten(1))
    deviation = relative(stock_x, x)
    print(f"{solver} {spacing} {steps}: NumPy differs by {by_equations:.1e}, stock f32 by {deviation:.1e}")
    assert by_equations < 1e-9, by_equations
    assert deviation < STOCK_LIMIT, deviation
    return {"solver": solver, "by": kind.__name__, "grid": f"{spacing} {steps}", "times": times, "calls": len(asked),
            "final": "first" if solver == "sa" else "clean", "stock_deviation": deviation,
            **({} if noise is None else {"noise": noise.flatten(1).tolist()}), "x0": x.flatten().tolist()}


def by_definition(solver, steps, latents):
    times = [LENGTH * i // steps - 1 for i in range(steps, 0, -1)]
    sigmas = np.exp(log_sigma(np.array(times, dtype=float)))
    x = deis(DEIS[solver])(latents.double().flatten(1).numpy(), [*sigmas, 0.0], None)
    return {"solver": solver, "by": "definition", "grid": f"linear {steps}", "times": times, "calls": steps,
            "final": "clean", "x0": x.flatten().tolist()}


def restarted(name, repeats, latents):
    """Restart (arXiv 2306.14878) with Euler's method or Heun's in x̄, from index 299 back to 699."""
    times = [99 + 100 * i for i in range(9, -1, -1)]
    noise = normal(generator(f"restart {name}"), len(times) + 4 * repeats, IMAGES, *SHAPE)
    z = noise.double().flatten(2).numpy()
    sigmas = [*np.exp(log_sigma(np.array(times, dtype=float))), 0.0]
    slope = lambda x, sigma: predict(x / np.sqrt(1 + sigma**2), sigma)
    x, calls, made = latents.double().flatten(1).numpy() * np.sqrt(1 + sigmas[0] ** 2), 0, 0
    path, visits = list(range(10)), 0
    while path:
        i = path.pop(0)
        t, s = sigmas[i], sigmas[i + 1]
        d, calls, made = slope(x, t), calls + 1, made + 1
        if name == "heun" and s > 0:
            d, calls = (d + slope(x + (s - t) * d, s)) / 2, calls + 1
        x = x + (s - t) * d
        if times[i] == 399 and visits < repeats:
            # x̄ at 699 is x̄ at 299 with the missing variance.
            x, visits, path = x + np.sqrt(sigmas[3] ** 2 - sigmas[7] ** 2) * z[made], visits + 1, list(range(3, 10))
    return {"solver": name, "by": "definition", "grid": f"restart {repeats}", "times": times, "calls": calls,
            "restart": [299, 699, repeats], "final": "clean", "noise": noise.flatten(1).tolist(),
            "x0": x.flatten().tolist()}


def make():
    latents, common = problem()
    cases = [by_diffusers(solver, *grid, latents) for solver in SOLVERS for grid in GRIDS]
    cases += [by_definition(solver, steps, latents) for solver in DEIS for steps in (5, 16)]
    cases += [restarted(name, repeats, latents) for name, repeats in (("ddim", 2), ("heun", 1))]
    write_json("multistep.json", {**common, "cases": cases})
