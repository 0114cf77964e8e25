from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias, TypedDict, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import disjoint_base

from . import torch as torch

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

__version__: str

_Path: TypeAlias = str | PathLike[str]
_Floats: TypeAlias = NDArray[np.float32]
_Doubles: TypeAlias = NDArray[np.float64]
_Prediction: TypeAlias = Literal["epsilon", "sample", "v_prediction"]
_Method: TypeAlias = Literal["ddim", "fixed-point", "bdia", "edict"]
_Clip: TypeAlias = Literal["off", "keep-eps", "rederive-eps"]
_Weights: TypeAlias = Literal["ema", "raw"]
_Class: TypeAlias = int | Sequence[int]
_Function: TypeAlias = Callable[..., ArrayLike]

class InternalError(RuntimeError): ...

class Samples:
    array: _Floats
    options: dict[str, Any]
    first: int
    columns: int | None
    def __init__(
        self, array: ArrayLike, options: Mapping[str, Any] | None = None, first: int = 0, columns: int | None = None
    ) -> None: ...
    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]: ...
    @property
    def shape(self) -> tuple[int, int, int, int]: ...
    @property
    def dtype(self) -> np.dtype[np.float32]: ...
    @property
    def ndim(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: Any) -> Any: ...
    def __iter__(self) -> Iterator[_Floats]: ...
    def images(self) -> NDArray[np.uint8]: ...
    def pil(self) -> list[Any]: ...
    def save(self, path: _Path) -> None: ...
    def png(self) -> bytes: ...

@final
class Schedule:
    @staticmethod
    def linear(beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> Schedule: ...
    @staticmethod
    def scaled_linear(beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> Schedule: ...
    @staticmethod
    def cosine(steps: int = 1000) -> Schedule: ...
    @staticmethod
    def sigmoid(beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> Schedule: ...
    @staticmethod
    def from_betas(betas: Sequence[float] | _Doubles) -> Schedule: ...
    @staticmethod
    def from_config(config: Mapping[str, Any] | _Path) -> Schedule: ...
    def with_zero_snr(self) -> Schedule: ...
    @property
    def steps(self) -> int: ...
    @property
    def betas(self) -> _Doubles: ...
    @property
    def alpha_bars(self) -> _Doubles: ...
    @property
    def config(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...

@disjoint_base
class Denoiser:
    def __new__(
        cls,
        function: _Function,
        shape: tuple[int, int, int],
        prediction: _Prediction = "epsilon",
        *,
        classes: int | None = None,
        null_class: int | None = None,
        fractional: bool = False,
        learned_variance: bool = False,
        vjp: Callable[..., tuple[ArrayLike, ArrayLike]] | None = None,
        name: str | None = None,
    ) -> Denoiser: ...
    @property
    def function(self) -> _Function: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def prediction(self) -> str: ...
    @property
    def classes(self) -> int | None: ...
    @property
    def null_class(self) -> int | None: ...

@final
class Step:
    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def t(self) -> int | float: ...
    @property
    def s(self) -> int | float | None: ...
    @property
    def x(self) -> _Floats: ...
    @property
    def x0(self) -> _Floats: ...
    @property
    def first(self) -> int: ...

@final
class Device:
    @property
    def device(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def memory(self) -> int | None: ...
    @property
    def precisions(self) -> list[str]: ...
    @property
    def engine(self) -> str: ...
    @property
    def software(self) -> bool: ...
    @property
    def trouble(self) -> str | None: ...

@final
class Trajectory:
    def __iter__(self) -> Iterator[Step]: ...
    def __next__(self) -> Step: ...
    def __len__(self) -> int: ...

@final
class PlanStep:
    @property
    def t(self) -> int | float: ...
    @property
    def s(self) -> int | float | None: ...
    @property
    def a_t(self) -> float: ...
    @property
    def a_s(self) -> float: ...
    @property
    def one_minus_a_t(self) -> float: ...
    @property
    def sigma(self) -> float: ...
    @property
    def x0(self) -> float: ...
    @property
    def eps(self) -> float: ...
    @property
    def z(self) -> float: ...
    @property
    def least_z(self) -> float | None: ...
    @property
    def clip(self) -> tuple[str, float, float] | None: ...

@final
class Calibration:
    @staticmethod
    def load(path: _Path) -> Calibration: ...
    def save(self, path: _Path) -> None: ...
    @property
    def eps_squares(self) -> _Doubles: ...
    @property
    def x0_errors(self) -> _Doubles: ...
    @property
    def hash(self) -> str: ...

class _Term(TypedDict):
    t: int | float
    s: int | float | None
    bits: float
    squared_error: float

@final
class Likelihood:
    @property
    def bits_per_dim(self) -> float: ...
    @property
    def images(self) -> _Doubles: ...
    @property
    def standard_error(self) -> float | None: ...
    @property
    def probe_error(self) -> float | None: ...
    @property
    def method(self) -> str: ...
    @property
    def terms(self) -> list[_Term]: ...
    @property
    def prior_bits(self) -> float | None: ...
    @property
    def latents(self) -> _Floats | None: ...
    def __float__(self) -> float: ...

@disjoint_base
class Sampler:
    def __new__(cls, denoiser: Denoiser, *, schedule: Schedule | None = None, threads: int | None = None) -> Sampler: ...
    @property
    def denoiser(self) -> Denoiser | None: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def prediction(self) -> str: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def threads(self) -> int: ...
    @property
    def calibration(self) -> Calibration | None: ...
    @calibration.setter
    def calibration(self, value: Calibration | None) -> None: ...
    def guide_by(self, by: Sampler | None) -> None: ...
    def sample(
        self,
        n: int = 1,
        *,
        preset: str | None = None,
        steps: int | None = None,
        eta: float = 0,
        sigma: str | Sequence[float] | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        solver: str | None = None,
        restart: tuple[int, int, int] | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        final_sigma: float | None = None,
        class_: _Class | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        first: int = 0,
        batch: int | None = None,
        latents: ArrayLike | None = None,
        noise: ArrayLike | None = None,
        progress: bool | None = None,
        callback: Callable[[Step], object] | None = None,
    ) -> Samples: ...
    def trajectory(
        self,
        n: int = 1,
        *,
        preset: str | None = None,
        steps: int | None = None,
        eta: float = 0,
        sigma: str | Sequence[float] | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        solver: str | None = None,
        restart: tuple[int, int, int] | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        final_sigma: float | None = None,
        class_: _Class | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        first: int = 0,
        latents: ArrayLike | None = None,
        noise: ArrayLike | None = None,
    ) -> Trajectory: ...
    def plan(
        self,
        *,
        preset: str | None = None,
        steps: int | None = None,
        eta: float = 0,
        sigma: str | Sequence[float] | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        solver: str | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        final_sigma: float | None = None,
        class_: _Class | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> list[PlanStep]: ...
    def encode(
        self,
        images: ArrayLike,
        *,
        method: _Method = "ddim",
        gamma: float | None = None,
        mix: float | None = None,
        tolerance: float | None = None,
        iterations: int | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        class_: _Class | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        first: int = 0,
        batch: int | None = None,
        progress: bool | None = None,
    ) -> _Floats: ...
    def decode(
        self,
        latents: ArrayLike,
        *,
        method: _Method = "ddim",
        gamma: float | None = None,
        mix: float | None = None,
        tolerance: float | None = None,
        iterations: int | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        class_: _Class | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        first: int = 0,
        batch: int | None = None,
        progress: bool | None = None,
    ) -> Samples: ...
    def reconstruct(
        self,
        images: ArrayLike,
        *,
        method: _Method = "ddim",
        gamma: float | None = None,
        mix: float | None = None,
        tolerance: float | None = None,
        iterations: int | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        class_: _Class | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        first: int = 0,
        batch: int | None = None,
        progress: bool | None = None,
    ) -> tuple[Samples, _Doubles]: ...
    def encode_noise(
        self,
        images: ArrayLike,
        *,
        draw: Literal["chain", "independent"] = "chain",
        steps: int | None = None,
        eta: float = 0,
        sigma: str | Sequence[float] | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        final_sigma: float | None = None,
        class_: _Class | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        first: int = 0,
        batch: int | None = None,
        progress: bool | None = None,
    ) -> tuple[_Floats, _Floats, float]: ...
    def interpolate(
        self,
        ends: Sequence[int] | ArrayLike,
        points: int = 11,
        *,
        method: Literal["ddim", "fixed-point"] = "ddim",
        tolerance: float | None = None,
        iterations: int | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        class_: int | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        batch: int | None = None,
        progress: bool | None = None,
    ) -> Samples: ...
    def inpaint(
        self,
        image: ArrayLike,
        mask: ArrayLike,
        n: int = 1,
        *,
        resamples: int = 5,
        jump: int = 5,
        steps: int | None = None,
        eta: float = 0,
        sigma: str | Sequence[float] | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        final_sigma: float | None = None,
        class_: _Class | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        first: int = 0,
        batch: int | None = None,
        latents: ArrayLike | None = None,
        progress: bool | None = None,
        callback: Callable[[Step], object] | None = None,
    ) -> Samples: ...
    def likelihood(
        self,
        images: ArrayLike,
        *,
        method: Literal["elbo", "ode"] = "elbo",
        labels: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        sigma_1: float | None = None,
        probes: int = 1,
        probe: Literal["rademacher", "gaussian"] = "rademacher",
        dequantise: bool = True,
        steps: int | None = None,
        eta: float = 1,
        sigma: str | Sequence[float] | None = None,
        spacing: str | None = None,
        times: Sequence[int] | None = None,
        clip: _Clip | None = None,
        threshold: tuple[float, float] | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Likelihood: ...
    def calibrate(
        self,
        images: ArrayLike,
        *,
        labels: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        seed: int = 0,
        fitted: int = 0,
        data: str = "images",
        progress: bool | None = None,
    ) -> Calibration: ...
    def evaluate(
        self,
        data: _Path | ArrayLike | tuple[Any, Any],
        *,
        out: _Path,
        steps: int | Sequence[int] | None = None,
        eta: float | str | Sequence[float | str] = 0,
        spacing: str | Sequence[str] | None = None,
        solver: str | Sequence[str] = "ddim",
        clip: _Clip | Sequence[_Clip] | None = None,
        n: int = 10000,
        first: int = 0,
        features: str = "fashion-cnn",
        reference: int | None = None,
        repeats: str | None = "32x5",
        batch: int | None = None,
        restart: tuple[int, int, int] | None = None,
        class_: _Class | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        threshold: tuple[float, float] | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> list[dict[str, Any]]: ...

@final
class Model(Sampler):
    @property
    def path(self) -> Any: ...
    @property
    def parameters(self) -> int: ...
    @property
    def hash(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def classes(self) -> int | None: ...
    @property
    def provenance(self) -> dict[str, str]: ...

@final
class Features:
    @staticmethod
    def from_vectors(vectors: ArrayLike, network: str) -> Features: ...
    @staticmethod
    def load(path: _Path, features: str | None = None) -> Features: ...
    def save(self, path: _Path) -> None: ...
    def merge(self, other: Features) -> Features: ...
    @property
    def count(self) -> int: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def network(self) -> str: ...
    @property
    def mean(self) -> _Doubles: ...
    @property
    def covariance(self) -> _Doubles: ...
    @property
    def vectors(self) -> _Floats | None: ...
    @property
    def about(self) -> dict[str, str]: ...
    def __len__(self) -> int: ...

@final
class Training:
    @property
    def out(self) -> Any: ...
    @property
    def path(self) -> Any: ...
    @property
    def steps(self) -> int: ...
    def load(self, **options: Any) -> Model: ...

def load(
    path: _Path | None = None,
    *,
    weights: _Weights | None = None,
    size: int | tuple[int, int] | None = None,
    scheduler: Schedule | Mapping[str, Any] | _Path | None = None,
    onnx: str | None = None,
    precision: Literal["f32", "f16", "bf16"] = "f32",
    device: str | None = None,
    threads: int | None = None,
) -> Model: ...
def latents(n: int, shape: tuple[int, int, int], *, seed: int = 0, first: int = 0) -> _Floats: ...
def noise(n: int, shape: tuple[int, int, int], step: int, *, seed: int = 0, first: int = 0) -> _Floats: ...
def read_images(
    data: _Path | ArrayLike,
    n: int | None = None,
    *,
    split: Literal["train", "test"] = "train",
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    range: tuple[float, float] | None = None,
) -> tuple[_Floats, list[int] | None]: ...
def train(
    data: _Path | ArrayLike,
    recipe: _Path | None = None,
    *,
    out: _Path,
    labels: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    model: Mapping[str, Any] | None = None,
    diffusion: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | None = None,
    ema: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    seed: int | None = None,
    init: _Path | None = None,
    weights: _Weights | None = None,
    resume: bool = False,
    layout: Literal["nchw", "nhwc"] | None = None,
    range: tuple[float, float] | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: bool | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> Training: ...
def devices() -> list[Device]: ...
def distill(
    data: _Path | ArrayLike,
    teacher: Model | _Path | None = None,
    *,
    out: _Path,
    steps: int | None = None,
    from_steps: int | None = None,
    solver: Literal["ddim", "heun"] | None = None,
    guidance: float | None = None,
    recipe: _Path | None = None,
    labels: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    train: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | None = None,
    ema: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    seed: int | None = None,
    weights: _Weights | None = None,
    resume: bool = False,
    layout: Literal["nchw", "nhwc"] | None = None,
    range: tuple[float, float] | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: bool | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> Training: ...
def fit(
    data: _Path | ArrayLike,
    features: str = "fashion-cnn",
    *,
    n: int | None = None,
    split: Literal["train", "test"] = "train",
    keep: bool = True,
    progress: bool | None = None,
) -> Features: ...
def frechet(a: Features | _Path | ArrayLike, b: Features | _Path | ArrayLike, features: str | None = None) -> float: ...
def kernel_distance(
    a: Features | _Path | ArrayLike,
    b: Features | _Path | ArrayLike,
    features: str | None = None,
    *,
    subsets: int | None = None,
    size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]: ...
def precision_recall(
    generated: Features | _Path | ArrayLike,
    real: Features | _Path | ArrayLike,
    features: str | None = None,
    *,
    neighbours: int = 3,
) -> tuple[float, float]: ...
