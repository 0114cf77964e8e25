"""The networks and contestants that are compared.

Standard library only: the process that measures the memory of its children must itself stay small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARRIED = ROOT / "crates" / "model" / "weights"

# The timestep of every call, and the schedule of all networks: linear, of this length, between these betas.
TIME = 500
TIMES = 1000
BETAS = (1e-4, 0.02)
# Number of images whose exact (float64) output is known.
CHECKED = 2


@dataclass(frozen=True)
class Network:
    """A U-Net to time, and the batches to time it at."""

    key: str
    title: str
    batches: tuple[int, ...]
    training_batch: int
    # Numbers of images in the two whole-program runs.
    program: tuple[int, int]
    # Runs only if named: large.
    extra: bool = False


NETWORKS: dict[str, Network] = {
    network.key: network
    for network in (
        Network("cifar", "U-Net of google/ddpm-cifar10-32, random weights", (1, 4, 16), 16, (1, 16)),
        Network("small", "U-Net of channels 32, 64, 128 at 1×32×32, random weights", (1, 16, 64), 64, (1, 64)),
        Network("carried", "the model skipstone carries, 1×28×28", (1, 16, 64), 64, (1, 64)),
        Network("adm256", "U-Net of guided-diffusion's 256x256_diffusion_uncond, random weights", (1,), 1, (1, 1), True),
    )
}
USUAL = [key for key, network in NETWORKS.items() if not network.extra]


@dataclass(frozen=True)
class Contestant:
    """A program that runs the networks."""

    key: str
    title: str
    # PyTorch's three configurations share a family, for "best of PyTorch".
    family: str
    trains: bool = False
    # Environment variables that limit it to AVX2; None if it has no such switch.
    avx2: dict[str, str] | None = None
    # Extra arguments for skipstone; peers have none.
    arguments: tuple[str, ...] = ()
    # Runs only if named: not faster than its sibling where it was tried, or for some processors only.
    extra: bool = False

    @property
    def ours(self) -> bool:
        return self.family == "skipstone"


# oneDNN computes the convolutions, MKL the matrix products, ATen the rest; inductor reads the same variable as ATen.
TORCH_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
SKIPSTONE_AVX2 = {"SKIPSTONE_ISA": "avx2"}

CONTESTANTS: dict[str, Contestant] = {
    contestant.key: contestant
    for contestant in (
        Contestant("pytorch", "PyTorch eager", "pytorch", True, TORCH_AVX2),
        Contestant("pytorch-channels-last", "PyTorch channels_last", "pytorch", True, TORCH_AVX2),
        Contestant("pytorch-compile", "torch.compile, frozen", "pytorch", True, TORCH_AVX2),
        Contestant("onnxruntime", "ONNX Runtime", "onnxruntime"),
        Contestant("openvino", "OpenVINO f32, from ONNX", "openvino", avx2={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
        Contestant("openvino-torch", "OpenVINO f32, from PyTorch", "openvino", avx2={"ONEDNN_MAX_CPU_ISA": "AVX2"},
                   extra=True),
        Contestant("skipstone", "skipstone f32", "skipstone", True, SKIPSTONE_AVX2),
        Contestant("skipstone-f16", "skipstone f16", "skipstone", avx2=SKIPSTONE_AVX2, arguments=("--precision", "f16")),
        # Where the processor has matrix units (AMX). OpenVINO computes in bf16 there unless told otherwise.
        Contestant("pytorch-bf16", "PyTorch channels_last, bf16", "pytorch-bf16", True, extra=True),
        Contestant("pytorch-compile-bf16", "torch.compile, bf16", "pytorch-bf16", True, extra=True),
        Contestant("openvino-bf16", "OpenVINO bf16, from ONNX", "openvino-bf16", extra=True),
        Contestant("skipstone-bf16", "skipstone bf16", "skipstone", True, arguments=("--precision", "bf16"), extra=True),
    )
}


def folder(work: Path, network: str) -> Path:
    """The diffusers pipeline folder of a network."""
    return work / "models" / network


def reference(work: Path, network: str) -> Path:
    """Input and exact output: arrays x, t, y of an .npz file."""
    return work / "reference" / f"{network}.npz"


def onnx(work: Path, network: str, batch: int) -> Path:
    """The network as ONNX, at a fixed batch."""
    return work / "onnx" / f"{network}-{batch}.onnx"
