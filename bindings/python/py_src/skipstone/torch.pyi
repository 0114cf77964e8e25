from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike

from . import Denoiser, Sampler, Schedule

__all__ = ["TorchDenoiser", "from_pipeline", "sample", "wrap"]

class TorchDenoiser(Denoiser):
    def __new__(
        cls,
        module: Callable[..., Any],
        shape: tuple[int, int, int],
        prediction: str = "epsilon",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        call: Callable[..., torch.Tensor] | None = None,
        classes: int | None = None,
        null_class: int | None = None,
        fractional: bool = False,
        learned_variance: bool = False,
        name: str | None = None,
    ) -> TorchDenoiser: ...
    @property
    def module(self) -> Callable[..., Any]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...

def wrap(
    module: Callable[..., Any],
    shape: tuple[int, int, int] | None = None,
    prediction: str = "epsilon",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    call: Callable[..., torch.Tensor] | None = None,
    classes: int | None = None,
    null_class: int | None = None,
    fractional: bool | None = None,
    learned_variance: bool | None = None,
    name: str | None = None,
) -> TorchDenoiser: ...
def from_pipeline(pipe: Any, *, threads: int | None = None, name: str | None = None) -> Sampler: ...
def sample(
    denoiser: Denoiser | Sampler,
    n: int = 1,
    *,
    schedule: Schedule | None = None,
    latents: torch.Tensor | ArrayLike | None = None,
    noise: torch.Tensor | ArrayLike | None = None,
    first: int = 0,
    callback: Callable[[int, int, torch.Tensor], object] | None = None,
    class_: int | Sequence[int] | None = None,
    **options: Any,
) -> torch.Tensor: ...
