"""adm.json and adm.safetensors: networks of guided-diffusion's own code, with what that code predicts and samples.

The package is guided-diffusion's code as published on PyPI. Its UNetModel is also improved-diffusion's, with other flags.
The weights follow a formula (see `weights`), so that no file holds them.
"""

import math
import zlib

import numpy as np
import torch

from .common import generator, normal, write_json, write_tensors

BASE = dict(
    image_size=8, num_channels=32, num_res_blocks=1, num_heads=4, num_head_channels=-1, class_cond=False, dropout=0.0,
    learn_sigma=False, use_scale_shift_norm=True, resblock_updown=False, use_new_attention_order=False,
    predict_xstart=False, rescale_timesteps=False, diffusion_steps=1000, noise_schedule="linear",
)
# The comment of each says what it tests.
CASES = {
    # Residual blocks that resample, attention on one level, heads by their width, learned variance.
    "resnet": dict(channel_mult="1,2", attention_resolutions="4", num_head_channels=16, resblock_updown=True,
                   learn_sigma=True),
    # Three levels, the new order of the attention's rows, classes, the cosine schedule.
    "classes": dict(channel_mult="1,1,2", attention_resolutions="4,2", num_head_channels=32, resblock_updown=True,
                    learn_sigma=True, class_cond=True, use_new_attention_order=True, noise_schedule="cosine"),
    # A fixed number of heads on levels of different widths, fixed variance, resampling by convolutions.
    "heads": dict(channel_mult="1,2", num_res_blocks=2, attention_resolutions="8,4", num_heads=2,
                  use_scale_shift_norm=False),
    # 4000 timesteps, asked at rescaled times.
    "rescaled": dict(channel_mult="1,2", attention_resolutions="4", learn_sigma=True, noise_schedule="cosine",
                     diffusion_steps=4000, rescale_timesteps=True),
    # One level; the network predicts x₀.
    "one_level": dict(channel_mult="1", attention_resolutions="8", predict_xstart=True, learn_sigma=True),
}
CLASSES = [3, 997]
RESPACINGS = {"ddim": "ddim5", "ancestral": "2,3,1"}


def weights(name, shape):
    """Multiples of 2⁻¹⁰ in ±1 from a hash of the name's CRC-32 and the element's index, scaled by a power of two."""
    count = math.prod(shape)
    h = (zlib.crc32(name.encode()) + np.arange(count, dtype=np.uint64) * 2654435761) & 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    h = (h * 0x45D9F3B) & 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    unit = ((h & 2047).astype(np.float32) - 1024) / 1024
    if name.endswith("bias"):
        values = unit / 8
    elif len(shape) == 1:
        values = 1 + unit / 4
    else:
        values = unit * 2.0 ** round(math.log2(1.7 / math.sqrt(math.prod(shape[1:]))))
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def build(flags):
    from guided_diffusion.script_util import create_gaussian_diffusion, create_model

    diffusion = {k: flags[k] for k in ("learn_sigma", "noise_schedule", "predict_xstart", "rescale_timesteps")}
    others = {"predict_xstart", "rescale_timesteps", "diffusion_steps", "noise_schedule"}
    model = create_model(**{k: v for k, v in flags.items() if k not in others})
    model.load_state_dict({k: weights(k, tuple(v.shape)) for k, v in model.state_dict().items()})

    def spaced(respacing):
        return create_gaussian_diffusion(steps=flags["diffusion_steps"], timestep_respacing=respacing, **diffusion)

    return model.eval(), spaced


def make():
    tensors, cases = {}, []
    for name, changes in CASES.items():
        flags = BASE | changes
        model, spaced = build(flags)
        gen = generator(f"adm {name}")
        x = normal(gen, 2, 3, 8, 8)
        labels = {"y": torch.tensor(CLASSES)} if flags["class_cond"] else {}
        times = [37, flags["diffusion_steps"] * 9 // 10]
        with torch.no_grad():
            predict = model(x, torch.tensor(times), **labels)
            ddim = spaced(RESPACINGS["ddim"])
            sampled = ddim.ddim_sample_loop(model, x.shape, noise=x, model_kwargs=labels, device="cpu")
            ancestral = spaced(RESPACINGS["ancestral"])
            z = normal(gen, ancestral.num_timesteps, *x.shape)
            state = x
            for i in reversed(range(ancestral.num_timesteps)):
                t = torch.full((2,), i)
                out = ancestral.p_mean_variance(model, state, t, clip_denoised=True, model_kwargs=labels)
                noise = z[ancestral.num_timesteps - 1 - i] if i > 0 else torch.zeros_like(x)
                state = out["mean"] + torch.exp(0.5 * out["log_variance"]) * noise
        print(f"adm {name}: rms {float(predict.square().mean() ** 0.5):.3g}")
        tensors |= {f"{name}/{key}": value for key, value in
                    dict(x=x, z=z, predict=predict, ddim=sampled, ancestral=state).items()}
        cases.append({
            "name": name, "flags": flags, "class": CLASSES if flags["class_cond"] else None, "predict_times": times,
            "weights": {key: list(value.shape) for key, value in model.state_dict().items()},
            "ddim_times": ddim.timestep_map[::-1], "ancestral_times": ancestral.timestep_map[::-1],
        })
    write_tensors("adm.safetensors", tensors)
    write_json("adm.json", {"respacings": RESPACINGS, "cases": cases})
