"""steps.json, steps.safetensors: single generative steps by diffusers' own schedulers."""

from unittest import mock

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm

from .common import generator, normal, relative, write_json, write_tensors
from .schedules import accumulate, betas64, zero_snr

SHAPE = (2, 3, 4, 4)
LENGTH = 1000


def exact_alpha_bar(kind, rescale):
    betas = betas64(kind, LENGTH)
    return torch.from_numpy(accumulate(zero_snr(betas) if rescale else betas)[0])


def in_double(scheduler, kind, rescale):
    """The scheduler with its table in f64, so that only the arithmetic of the step matters. Changes the scheduler."""
    scheduler.alphas_cumprod = exact_alpha_bar(kind, rescale)
    if hasattr(scheduler, "one"):
        scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    else:
        final = scheduler.alphas_cumprod[0] if not scheduler.config.set_alpha_to_one else torch.tensor(1.0)
        scheduler.final_alpha_cumprod = final.double()
    return scheduler


def network_output(prediction, x0, eps, alpha_bar):
    """The network output, in this prediction type, for given x₀ and ε."""
    if prediction == "epsilon":
        return eps
    if prediction == "sample":
        return x0
    return (alpha_bar**0.5 * eps.double() - (1 - alpha_bar) ** 0.5 * x0.double()).float()


def inputs(name, kind, rescale, t, prediction):
    gen = generator(f"step {name}")
    x0, eps, error, z = 1.2 * normal(gen, *SHAPE), normal(gen, *SHAPE), normal(gen, *SHAPE), normal(gen, *SHAPE)
    alpha_bar = exact_alpha_bar(kind, rescale)[t]
    x_t = (alpha_bar**0.5 * x0.double() + (1 - alpha_bar) ** 0.5 * eps.double()).float()
    # The guesses have an error, large enough for clipping to act. For ε it is smaller at high noise, where x̂₀ divides it
    # by √a.
    size = 0.3 if prediction != "epsilon" else 0.3 * min(1.0, float(alpha_bar**0.5 / (1 - alpha_bar) ** 0.5))
    guess_x0 = x0 + 0.3 * error if prediction != "epsilon" else x0
    guess_eps = eps + size * error if prediction != "sample" else eps
    return x_t, network_output(prediction, guess_x0, guess_eps, alpha_bar), z


def ddim(case):
    """One DDIMScheduler.step: stock f32, and an f64 table on f64 data."""
    rescale = case.get("rescale_betas_zero_snr", False)
    clip = case["clip"]

    def scheduler():
        s = DDIMScheduler(
            num_train_timesteps=LENGTH,
            beta_schedule=case["schedule"],
            rescale_betas_zero_snr=rescale,
            prediction_type=case["prediction"],
            clip_sample=clip != "off" and "threshold" not in case,
            clip_sample_range=case.get("clip_range", 1.0),
            thresholding="threshold" in case,
            dynamic_thresholding_ratio=case.get("threshold", [0.995, 1.0])[0],
            sample_max_value=case.get("threshold", [0.995, 1.0])[1],
            set_alpha_to_one=case.get("set_alpha_to_one", True),
            timestep_spacing="trailing",
        )
        s.set_timesteps(case["steps"])
        return s

    x_t, out, z = inputs(case["name"], case["schedule"], rescale, case["t"], case["prediction"])
    extra = dict(eta=case["eta"], use_clipped_model_output=clip == "rederive-eps")
    stock = scheduler().step(out, case["t"], x_t, variance_noise=z, **extra)
    exact = in_double(scheduler(), case["schedule"], rescale).step(
        out.double(), case["t"], x_t.double(), variance_noise=z.double(), **extra
    )
    return x_t, out, z, exact, stock


def ddpm(case):
    """One DDPMScheduler.step. The noise it would draw is replaced by the noise of the case."""
    clip = case["clip"]

    def scheduler():
        s = DDPMScheduler(
            num_train_timesteps=LENGTH,
            beta_schedule=case["schedule"],
            prediction_type=case["prediction"],
            variance_type=case["variance_type"],
            clip_sample=clip != "off",
        )
        s.set_timesteps(timesteps=case["timesteps"])
        return s

    x_t, out, z = inputs(case["name"], case["schedule"], False, case["t"], case["prediction"])
    with mock.patch.object(scheduling_ddpm, "randn_tensor", lambda shape, generator, device, dtype: z.to(dtype)):
        stock = scheduler().step(out, case["t"], x_t)
        exact = in_double(scheduler(), case["schedule"], False).step(out.double(), case["t"], x_t.double())
    return x_t, out, z, exact, stock


def ddim_cases():
    def case(name, t, steps, **more):
        gap = LENGTH // steps
        s = t - gap if t - gap >= 0 else None
        base = dict(schedule="linear", prediction="epsilon", eta=0.0, clip="off")
        return dict(name=name, by="DDIMScheduler", t=t, s=s, steps=steps, **(base | more))

    out = []
    for prediction in ("epsilon", "sample", "v_prediction"):
        for clip in ("off", "keep-eps", "rederive-eps"):
            for eta in (0.0, 0.5, 1.0):
                for t, steps in ((699, 10), (19, 50)):
                    name = f"{prediction} {clip} eta {eta} t {t}"
                    out.append(case(name, t, steps, prediction=prediction, clip=clip, eta=eta))
    for eta in (0.0, 0.5, 1.0):
        # From the highest timestep, and from one training timestep to the next.
        out.append(case(f"top eta {eta}", 999, 10, prediction="v_prediction", eta=eta))
        out.append(case(f"neighbours eta {eta}", 400, 1000, eta=eta))
        out.append(case(f"cosine eta {eta}", 799, 20, schedule="squaredcos_cap_v2", eta=eta))
        out.append(case(f"scaled linear eta {eta}", 599, 20, schedule="scaled_linear", eta=eta))
        for clip in ("keep-eps", "rederive-eps"):
            out.append(case(f"threshold {clip} eta {eta}", 399, 10, clip=clip, eta=eta, threshold=[0.9, 1.5]))
            out.append(case(f"threshold sample {clip} eta {eta}", 299, 10, clip=clip, eta=eta, prediction="sample",
                            threshold=[0.83, 10.0]))
        out.append(case(f"clip range eta {eta}", 399, 10, clip="keep-eps", clip_range=0.7, eta=eta))
        # The last step with a[0] instead of 1, for models whose config says so.
        out.append(case(f"final alpha eta {eta}", 99, 10, set_alpha_to_one=False, eta=eta))
        out.append(case(f"final alpha not last eta {eta}", 199, 10, set_alpha_to_one=False, eta=eta))
    for eta in (0.0, 0.5):
        for clip in ("off", "keep-eps", "rederive-eps"):
            for t in (999, 499):
                out.append(case(f"zero snr {clip} eta {eta} t {t}", t, 10, prediction="v_prediction", clip=clip, eta=eta,
                                rescale_betas_zero_snr=True))
            out.append(case(f"zero snr sample {clip} eta {eta}", 999, 10, prediction="sample", clip=clip, eta=eta,
                            rescale_betas_zero_snr=True))
    return out


def ddpm_cases():
    """fixed_large is σ̂ and fixed_small is η = 1, both with ε̂ re-derived from the clipped x̂₀.

    The last step is omitted: diffusers adds noise there unless its index is 0.
    """
    out = []
    for variance_type, sigma in (("fixed_large", "hat"), ("fixed_small", 1.0)):
        for clip in ("off", "rederive-eps"):
            for t, s in ((700, 699), (5, 4), (1, 0), (700, 500), (99, 17)):
                out.append(dict(
                    name=f"{variance_type} {clip} {t} to {s}", by="DDPMScheduler", t=t, s=s, timesteps=[t, s],
                    schedule="linear", prediction="epsilon", clip=clip, variance_type=variance_type,
                    **({"sigma": sigma} if sigma == "hat" else {"eta": sigma}),
                ))
        out.append(dict(
            name=f"{variance_type} index 0", by="DDPMScheduler", t=0, s=None, timesteps=[1, 0], schedule="linear",
            prediction="epsilon", clip="off", variance_type=variance_type,
            **({"sigma": sigma} if sigma == "hat" else {"eta": sigma}),
        ))
    return out


def make():
    cases, columns = [], {"x_t": [], "model_output": [], "z": [], "x_s": [], "x0": []}
    for case in ddim_cases() + ddpm_cases():
        x_t, out, z, exact, stock = (ddim if case["by"] == "DDIMScheduler" else ddpm)(case)
        assert exact.prev_sample.dtype == torch.float64
        deviation = relative(stock.prev_sample, exact.prev_sample)
        # Stock f32 must agree; it is good to about 1e-5 where a is not tiny.
        assert deviation < 2e-3, f"{case['name']}: stock diffusers deviates by {deviation}"
        cases.append(case | {"row": len(cases), "f32_deviation": deviation})
        for key, value in (("x_t", x_t), ("model_output", out), ("z", z), ("x_s", exact.prev_sample),
                           ("x0", exact.pred_original_sample.float())):
            columns[key].append(value)
    write_tensors("steps.safetensors", {key: torch.stack(rows) for key, rows in columns.items()})
    write_json("steps.json", {"num_train_timesteps": LENGTH, "beta_start": 1e-4, "beta_end": 0.02, "cases": cases})
