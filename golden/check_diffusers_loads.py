"""Checks that the pinned diffusers loads a model folder written by skipstone and samples the same images from it.

    python golden/check_diffusers_loads.py MODEL_DIR
    python golden/check_diffusers_loads.py MODEL_DIR --latents x_T.npy --steps 10 --times 999,899,...,99 \
        --expected y.npy [--noise z.npy --eta 0.5] [--clip off]

Exit status: 0 success, 1 a check failed, 2 wrong usage.
"""

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from diffusers.utils import logging

CLIPS = ("off", "keep-eps", "rederive-eps")


def fail(message):
    print(f"failed: {message}", file=sys.stderr)
    sys.exit(1)


def load_unet(folder, subfolder, variant=None):
    """Loads the network; every key of the file must be used and every parameter set."""
    try:
        model, info = UNet2DModel.from_pretrained(
            folder, subfolder=subfolder, variant=variant, output_loading_info=True, local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        fail(f"{folder}: {error}")
    what = f"{folder}/{subfolder or ''} ({variant or 'default'} weights)"
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(problem):
            fail(f"{what}: {problem}: {list(info[problem])[:8]}")
    print(f"{what}: {sum(p.numel() for p in model.parameters())} parameters, every key loaded")
    return model.eval()


def forward(model, what):
    """One call on noise; the output must have the right shape and be finite."""
    config = model.config
    size = config.sample_size
    size = [size, size] if isinstance(size, int) else list(size)
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(2, config.in_channels, *size, generator=gen)
    labels = torch.zeros(2, dtype=torch.long) if config.num_class_embeds else None
    with torch.no_grad():
        y = model(x, torch.tensor([3, 7]), class_labels=labels).sample
    if y.shape != (2, config.out_channels, *size) or not torch.isfinite(y).all():
        fail(f"{what}: a forward pass gives shape {tuple(y.shape)}, finite: {bool(torch.isfinite(y).all())}")
    print(f"{what}: forward pass gives {tuple(y.shape)}, rms {float(y.square().mean() ** 0.5):.4g}")


def sample(model, scheduler, args):
    """DDIM sampling with diffusers' step, from given latents, at given timesteps."""
    x = torch.from_numpy(np.load(args.latents))
    noise = None if args.noise is None else torch.from_numpy(np.load(args.noise))
    overrides = {} if args.clip is None else {"clip_sample": args.clip != "off", "thresholding": False}
    scheduler = DDIMScheduler.from_config(scheduler.config, **overrides)
    length = scheduler.config.num_train_timesteps
    scheduler.set_timesteps(args.steps or len(args.times))
    times = args.times or scheduler.timesteps.tolist()
    if args.steps is not None and len(times) != args.steps:
        fail(f"--steps {args.steps}, but {len(times)} times")
    if noise is not None and noise.shape != (len(times), *x.shape):
        fail(f"{args.noise}: expected shape {(len(times), *x.shape)}, found {tuple(noise.shape)}")
    if args.eta > 0 and noise is None:
        fail("--eta above 0 needs --noise")
    if args.double:
        model, x = model.double(), x.double()
    labels = None if args.labels is None else torch.tensor(args.labels)
    with torch.no_grad():
        for i, t in enumerate(times):
            # diffusers computes the next timestep as t − T // steps. A fraction in place of `steps` makes that exactly
            # the next one in our list, for any list; −1 is clean data.
            following = times[i + 1] if i + 1 < len(times) else -1
            scheduler.num_inference_steps = Fraction(length, t - following)
            output = model(x, t, class_labels=labels).sample
            x = scheduler.step(
                output, t, x, eta=args.eta, use_clipped_model_output=args.clip == "rederive-eps",
                variance_noise=None if noise is None else noise[i].to(x.dtype),
            ).prev_sample
    return x


def compare(found, path, tolerance):
    expected = torch.from_numpy(np.load(path)).double()
    if expected.shape != found.shape:
        fail(f"{path}: expected shape {tuple(found.shape)}, found {tuple(expected.shape)}")
    difference = float((found.double() - expected).norm() / expected.norm())
    print(f"relative difference ‖Δ‖₂/‖y‖₂ = {difference:.3e} (tolerance {tolerance:g})")
    if not difference <= tolerance:
        fail(f"{path}: relative difference {difference:.3e} over {tolerance:g}")


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a diffusers folder: a pipeline, or a network alone at its root")
    parser.add_argument("--latents", type=Path, help="x_T, f32 [n, c, h, w]")
    parser.add_argument("--noise", type=Path, help="z, f32 [calls, n, c, h, w]")
    parser.add_argument("--steps", type=int, help="network calls; the scheduler's own spacing unless --times is given")
    parser.add_argument("--times", type=numbers, help="network indices, strictly decreasing, by commas")
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("--clip", choices=CLIPS, help="default: what the folder's scheduler says")
    parser.add_argument("--labels", type=numbers, help="a class for each image, by commas")
    parser.add_argument("--weights", choices=("default", "raw"), default="default", help="which weights sample")
    parser.add_argument("--expected", type=Path, help="skipstone's result, compared with diffusers'")
    parser.add_argument("--output", type=Path, help="where to write diffusers' result, .npy f32")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="for the relative difference (default 1e-4)")
    parser.add_argument("--double", action="store_true", help="run diffusers' network in f64")
    args = parser.parse_args()
    if args.latents is None and (args.expected or args.output):
        parser.error("--expected and --output need --latents")
    if args.latents is not None and args.steps is None and args.times is None:
        parser.error("--latents needs --steps or --times")
    if args.times is not None and any(a <= b for a, b in zip(args.times, args.times[1:])):
        parser.error("--times must decrease strictly")
    torch.set_num_threads(1)
    logging.disable_progress_bar()

    pipeline = (args.model / "model_index.json").is_file()
    subfolder = "unet" if pipeline or (args.model / "unet").is_dir() else None
    networks = {"default": load_unet(args.model, subfolder)}
    weights = args.model / (subfolder or "")
    if any(weights.glob("diffusion_pytorch_model.raw*.safetensors")):
        networks["raw"] = load_unet(args.model, subfolder, "raw")
    for name, model in networks.items():
        forward(model, f"{name} weights")
    scheduler = None
    if pipeline:
        loaded = DDIMPipeline.from_pretrained(args.model, local_files_only=True)
        scheduler = loaded.scheduler
        print(f"{args.model}: DDIMPipeline loads, scheduler {scheduler.config.beta_schedule}, "
              f"{scheduler.config.prediction_type}, spacing {scheduler.config.timestep_spacing}")
    if args.latents is None:
        return
    if scheduler is None:
        scheduler = DDIMScheduler()
        print(f"{args.model}: no scheduler; diffusers' defaults hold")
    if args.weights not in networks:
        fail(f"{args.model}: no raw weights")
    result = sample(networks[args.weights], scheduler, args)
    if args.output:
        np.save(args.output, result.float().numpy())
    if args.expected:
        compare(result, args.expected, args.tolerance)


if __name__ == "__main__":
    main()
