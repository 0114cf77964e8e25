"""skipstone: denoising diffusion implicit models, exact and fast.

    >>> import skipstone as ss
    >>> model = ss.load()                          # the built-in model: 28x28 garments
    >>> x = model.sample(4, steps=5, progress=False)
    >>> x.shape
    (4, 1, 28, 28)

`load` opens diffusers folders, original checkpoints, ONNX files and models in the Hugging Face cache. `Denoiser` and
`skipstone.torch.wrap` put any other network under the same samplers.
"""

import importlib

from ._samples import Samples
from ._skipstone import (
    Calibration,
    Denoiser,
    Device,
    Features,
    InternalError,
    Likelihood,
    Model,
    PlanStep,
    Sampler,
    Schedule,
    Step,
    Training,
    Trajectory,
    __version__,
    devices,
    distill,
    fit,
    frechet,
    kernel_distance,
    latents,
    load,
    noise,
    precision_recall,
    read_images,
    train,
)

__all__ = [
    "Calibration",
    "Denoiser",
    "Device",
    "Features",
    "InternalError",
    "Likelihood",
    "Model",
    "PlanStep",
    "Sampler",
    "Samples",
    "Schedule",
    "Step",
    "Training",
    "Trajectory",
    "__version__",
    "devices",
    "distill",
    "fit",
    "frechet",
    "kernel_distance",
    "latents",
    "load",
    "noise",
    "precision_recall",
    "read_images",
    "train",
]


def __getattr__(name):
    # PyTorch is imported only where it is used.
    if name == "torch":
        return importlib.import_module("skipstone.torch")
    raise AttributeError(f"module 'skipstone' has no attribute {name!r}")


def __dir__():
    return sorted([*__all__, "torch"])
