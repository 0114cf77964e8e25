"""Shared by the families: paths, writing files, random numbers."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

VALUES = Path(__file__).resolve().parent.parent / "values"


def generator(name):
    """A generator seeded with the CRC-32 of a name, so that adding a case changes no other case."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(gen, *shape):
    """Standard normal f32 values."""
    return torch.randn(*shape, generator=gen, dtype=torch.float32)


def write_json(name, value):
    """Writes a JSON file. Python prints the shortest decimal that reads back as the same double."""
    path = VALUES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=None, separators=(",", ":"), default=_plain) + "\n")


def write_tensors(name, tensors):
    """Writes a safetensors file."""
    path = VALUES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for key, tensor in tensors.items():
        assert tensor.dtype == torch.int64 or torch.isfinite(tensor).all(), f"{name}: {key} is not finite"
    save_file({key: tensor.detach().contiguous().clone() for key, tensor in tensors.items()}, path)


def randomise(module, gen):
    """Gives every parameter a random value: none stays at 0 or 1, and outputs have the order of 1."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = normal(gen, *parameter.shape)
            if name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(1 + 0.3 * noise)
            elif name.startswith(("time_proj", "class_embedding")):
                parameter.copy_(noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


class ExactTimesteps(torch.nn.Module):
    """The positional embedding in f64.

    diffusers computes it in f32 whatever the model's precision. The error of t·frequency is then 3e-5 at t = 999, more
    than that of the rest of the network.
    """

    def __init__(self, channels, flip_sin_to_cos, freq_shift):
        super().__init__()
        self.half, self.flip, self.shift = channels // 2, flip_sin_to_cos, freq_shift

    def forward(self, timesteps):
        index = torch.arange(self.half, dtype=torch.float64)
        frequency = torch.exp(-np.log(10000.0) * index / (self.half - self.shift))
        angle = timesteps.double()[:, None] * frequency[None, :]
        parts = [torch.sin(angle), torch.cos(angle)]
        return torch.cat(parts[::-1] if self.flip else parts, dim=1)


def relative(found, expected):
    """‖found − expected‖₂ / ‖expected‖₂."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def _plain(value):
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    raise TypeError(type(value))
