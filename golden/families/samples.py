"""samples.safetensors: ten-step runs of three networks from given latents and noise."""

import torch
from diffusers import DDIMScheduler

from . import unets
from .common import generator, normal, relative, write_json, write_tensors
from .steps import in_double

# Networks of golden/values/unet_<name>, each with its prediction type.
RUNS = [("cifar", "epsilon"), ("heads", "sample"), ("scale_shift", "v_prediction")]
STEPS, IMAGES = 10, 2


def run(model, scheduler, x, noise, eta, clip):
    """The loop of DDIMPipeline with given noise, without the conversion to pictures."""
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            out = model(x, t).sample
            x = scheduler.step(
                out, int(t), x, eta=eta, variance_noise=noise[i], use_clipped_model_output=clip == "rederive-eps"
            ).prev_sample
    return x


def make_scheduler(prediction, clip):
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="linear", prediction_type=prediction, clip_sample=clip != "off",
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(STEPS)
    return scheduler


def make():
    tensors, cases = {}, []
    for name, prediction in RUNS:
        config = unets.ARCHITECTURES[name]
        gen = generator(f"samples {name}")
        shape = (IMAGES, config["in_channels"], *unets.size_of(config))
        latents, noise = normal(gen, *shape), normal(gen, STEPS, *shape)
        tensors |= {f"{name}/latents": latents, f"{name}/noise": noise}
        model = unets.build(name)
        exact_model = unets.in_double(unets.build(name))
        for eta in (0.0, 0.5):
            for clip in ("off", "keep-eps"):
                stock = run(model, make_scheduler(prediction, clip), latents, noise, eta, clip)
                scheduler = in_double(make_scheduler(prediction, clip), "linear", False)
                exact = run(exact_model, scheduler, latents.double(), noise.double(), eta, clip)
                key = f"{name}/eta_{eta}_clip_{clip}"
                tensors[key] = exact.float()
                deviation = relative(stock, exact)
                print(f"{key}: f32 deviates by {deviation:.1e}, rms {float(exact.square().mean() ** 0.5):.3g}")
                cases.append({
                    "model": f"unet_{name}", "prediction": prediction, "eta": eta, "clip": clip, "tensor": key,
                    "latents": f"{name}/latents", "noise": f"{name}/noise",
                    "times": scheduler.timesteps.tolist(), "f32_deviation": deviation,
                })
    write_tensors("samples.safetensors", tensors)
    write_json("samples.json", {
        "schedule": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "cases": cases,
    })
