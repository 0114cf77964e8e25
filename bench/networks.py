"""Makes the files that the contestants read: pipeline folders, ONNX files, an input and its exact output.

    python bench/networks.py --work DIR --networks cifar,small,carried [--onnx 1,4,16]

Existing files are kept. Random weights are PyTorch's own initialisation from seed 0.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

import contest

COMMON = {"freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0, "norm_eps": 1e-6,
          "attention_head_dim": None, "layers_per_block": 2, "sample_size": 32}
ARCHITECTURES = {
    "cifar": dict(
        COMMON, in_channels=3, out_channels=3, norm_num_groups=32, block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
    "small": dict(
        COMMON, in_channels=1, out_channels=1, norm_num_groups=8, block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
    "adm256": dict(
        sample_size=256, in_channels=3, out_channels=6, layers_per_block=2, attention_head_dim=64, norm_num_groups=32,
        block_out_channels=(256, 256, 512, 512, 1024, 1024), resnet_time_scale_shift="scale_shift", freq_shift=0,
        downsample_type="resnet", upsample_type="resnet",
        down_block_types=("ResnetDownsampleBlock2D",) * 3 + ("AttnDownBlock2D",) * 3,
        up_block_types=("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 3,
    ),
}
# ONNX files end at 2 GB; larger networks keep their weights in a file beside.
LARGE = 500_000_000


class ExactTimes(torch.nn.Module):
    """The sinusoidal embedding in float64; diffusers computes it in float32 whatever the network's precision."""

    def __init__(self, stock: torch.nn.Module) -> None:
        super().__init__()
        self.channels = stock.num_channels
        self.flip, self.shift = stock.flip_sin_to_cos, stock.downscale_freq_shift

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        half = self.channels // 2
        exponent = torch.arange(half, dtype=torch.float64) / (half - self.shift)
        angle = t.double()[:, None] * torch.exp(-math.log(10_000.0) * exponent)[None]
        parts = (torch.cos(angle), torch.sin(angle)) if self.flip else (torch.sin(angle), torch.cos(angle))
        return torch.cat(parts, dim=1)


class Plain(torch.nn.Module):
    """The network in a form for exporters: two tensors in, one out."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.unet(x, t, return_dict=False)[0]


def load(folder: Path) -> UNet2DModel:
    """The network of a pipeline folder, ready for inference."""
    return UNet2DModel.from_pretrained(folder, subfolder="unet", local_files_only=True).eval()


def inputs(unet: UNet2DModel, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and timesteps for one call; image i is the same in every batch."""
    size = unet.config.sample_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(unet.config.in_channels, *size, generator=generator) for _ in range(batch)]
    return torch.stack(images), torch.full((batch,), contest.TIME, dtype=torch.int64)


def make_folder(network: str, folder: Path) -> None:
    """Makes a pipeline folder. It is written under another name and renamed, so that it is never incomplete."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if network in ARCHITECTURES:
        torch.manual_seed(0)
        first, last = contest.BETAS
        scheduler = DDIMScheduler(num_train_timesteps=contest.TIMES, beta_start=first, beta_end=last, clip_sample=False)
        DDIMPipeline(UNet2DModel(**ARCHITECTURES[network]), scheduler).save_pretrained(partial)
    else:
        shutil.copytree(contest.CARRIED, partial)
    partial.rename(folder)


def make_reference(folder: Path, path: Path, batch: int) -> None:
    """Writes input for the largest batch, the exact output of its first images, and the network's size."""
    if path.exists():
        return
    unet = load(folder)
    x, t = inputs(unet, batch)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        unet(x[:1], t[:1])
    facts = {"gflop_per_image": counter.get_total_flops() / 1e9, "parameters": sum(p.numel() for p in unet.parameters())}
    exact = unet.double()
    exact.time_proj = ExactTimes(exact.time_proj)
    with torch.inference_mode():
        y = exact(x[: contest.CHECKED].double(), t[: contest.CHECKED], return_dict=False)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    np.savez(path, x=x.numpy(), t=t.numpy(), y=y.numpy())


def make_onnx(folder: Path, path: Path, batch: int) -> None:
    """Exports the network as ONNX at a fixed batch, because runtimes optimise fixed shapes best."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unet = load(folder)
    large = sum(p.numel() for p in unet.parameters()) > LARGE
    # The file with the weights is named in the ONNX file, so both get their names at once, in another folder.
    partial = path.parent / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    torch.onnx.export(Plain(unet).eval(), inputs(unet, batch), partial / path.name, input_names=["x", "t"],
                      output_names=["y"], dynamo=True, external_data=large, verbose=False)
    for file in sorted(partial.iterdir(), reverse=True):
        file.rename(path.parent / file.name)
    partial.rmdir()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(contest.USUAL))
    parser.add_argument("--onnx", default="", help="batches to export")
    args = parser.parse_args()
    for key in args.networks.split(","):
        network = contest.NETWORKS[key]
        folder = contest.folder(args.work, key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_folder(key, folder)
        make_reference(folder, contest.reference(args.work, key), max(network.batches))
        for batch in filter(None, args.onnx.split(",")):
            make_onnx(folder, contest.onnx(args.work, key, int(batch)), int(batch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
