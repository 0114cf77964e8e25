"""PyTorch networks under skipstone's samplers.

`wrap` makes a `Denoiser` of any module, on any device, in any dtype, compiled or not; autograd gives its vector-Jacobian
product, so that likelihood works too. `from_pipeline` takes a diffusers pipeline with its scheduler's config. `sample` runs
the whole loop on the device, with skipstone's coefficients and noise.
"""

import operator

import numpy as np
import torch

from . import _skipstone

__all__ = ["TorchDenoiser", "from_pipeline", "sample", "wrap"]


class TorchDenoiser(_skipstone.Denoiser):
    """A `Denoiser` over a PyTorch module; see `wrap`.

    Attributes:
        module: the module.
        device, dtype: where and in what it computes.
    """

    def __new__(cls, module, shape, prediction="epsilon", *, device=None, dtype=None, call=None, classes=None,
                null_class=None, fractional=False, learned_variance=False, name=None):
        function = _Function(module, device, dtype, call)
        self = super().__new__(
            cls, function, shape, prediction, classes=classes, null_class=null_class, fractional=fractional,
            learned_variance=learned_variance, vjp=function.vjp, name=name,
        )
        return self

    @property
    def module(self):
        return self.function.module

    @property
    def device(self):
        return self.function.device

    @property
    def dtype(self):
        return self.function.dtype

    def __reduce__(self):
        f = self.function
        build, (_, keywords) = super().__reduce__()
        for name in ("function", "vjp"):
            del keywords[name]
        keywords.update(module=f.module, device=f.device, dtype=f.dtype, call=f.call)
        return build, (TorchDenoiser, keywords)


class _Function:
    """A module as a function on NumPy arrays."""

    def __init__(self, module, device, dtype, call):
        first = next(iter(module.parameters()), None) if hasattr(module, "parameters") else None
        self.module = module
        self.call = call
        self.device = torch.device(device if device is not None else "cpu" if first is None else first.device)
        self.dtype = dtype if dtype is not None else torch.float32 if first is None else first.dtype
        if not self.dtype.is_floating_point:
            self.dtype = torch.float32

    def predict(self, x, t, classes=None):
        """The module's prediction for x, a tensor on the device, at the network index t."""
        # A fractional index needs more digits than half precision has.
        dtype = torch.int64 if isinstance(t, int) else torch.promote_types(x.dtype, torch.float32)
        times = torch.full((x.shape[0],), t, device=self.device, dtype=dtype)
        if self.call is not None:
            out = self.call(self.module, x, times) if classes is None else self.call(self.module, x, times, classes)
        elif classes is None:
            out = self.module(x, times)
        else:
            out = self.module(x, times, classes)
        return _tensor(out)

    def inputs(self, x, classes):
        # from_numpy shares the memory, and `to` copies only where device or type differ.
        x = torch.from_numpy(x).to(self.device, self.dtype)
        return x, None if classes is None else torch.from_numpy(classes).to(self.device)

    def __call__(self, x, t, classes=None):
        with torch.inference_mode():
            x, classes = self.inputs(x, classes)
            return _numpy(self.predict(x, t, classes))

    def vjp(self, x, t, cotangent, classes=None):
        """The prediction, and the cotangent pulled back to x."""
        with torch.inference_mode(False), torch.enable_grad():
            x, classes = self.inputs(x, classes)
            x = x.detach().clone().requires_grad_(True)
            out = self.predict(x, t, classes)
            if not out.requires_grad:
                raise RuntimeError("the module's output does not depend on x through autograd; it has no gradient")
            images = out[:, : x.shape[1]]
            cotangent = torch.from_numpy(cotangent).to(self.device, out.dtype)
            (gradient,) = torch.autograd.grad(images, x, cotangent)
        return _numpy(out.detach()), _numpy(gradient)


def _tensor(out):
    """The tensor in what a module returns: itself, its `sample`, or the first of a tuple or mapping."""
    if isinstance(out, torch.Tensor):
        return out
    if hasattr(out, "sample") and isinstance(out.sample, torch.Tensor):
        return out.sample
    if isinstance(out, dict):
        return _tensor(next(iter(out.values())))
    if isinstance(out, (tuple, list)) and out:
        return _tensor(out[0])
    raise TypeError(f"the module returned a {type(out).__name__}; give wrap(call=…) a function that returns a tensor")


def _numpy(out):
    return out.to("cpu", torch.float32).numpy()


def wrap(module, shape=None, prediction="epsilon", *, device=None, dtype=None, call=None, classes=None, null_class=None,
         fractional=None, learned_variance=None, name=None):
    """A `Denoiser` over a PyTorch module.

    The module is called as ``module(x, t)`` with x of `dtype` [n, c, h, w] and t, the network index, int64 [n]; with `classes`
    as ``module(x, t, classes)``. It may return a tensor, an object with `.sample` (diffusers), a tuple or a mapping. It is
    neither moved nor put into eval mode here.

    Args:
        module: the module, or any function on tensors. diffusers' UNet2DModel tells its own shape and classes.
        shape: (c, h, w) of an image.
        prediction: "epsilon", "sample" or "v_prediction".
        device, dtype: where and in what it computes [those of its parameters].
        call: (module, x, t[, classes]) -> tensor, for a module that is called otherwise.
        classes, null_class, fractional, learned_variance, name: as for `Denoiser`.

    Returns:
        TorchDenoiser.

    Raises:
        ValueError: the shape is neither given nor known.
    """
    config = getattr(getattr(module, "_orig_mod", module), "config", None)
    if config is not None and hasattr(config, "sample_size") and hasattr(config, "in_channels"):
        size = config.sample_size
        if shape is None and size is not None:
            shape = (config.in_channels, *((size, size) if isinstance(size, int) else size))
        if classes is None and getattr(config, "num_class_embeds", None):
            classes = config.num_class_embeds
        if learned_variance is None:
            learned_variance = getattr(config, "out_channels", None) == 2 * config.in_channels
        if fractional is None:
            fractional = getattr(config, "time_embedding_type", None) == "positional"
    if shape is None:
        raise ValueError("shape: the module does not tell the shape of its images; give shape=(c, h, w)")
    return TorchDenoiser(module, tuple(shape), prediction, device=device, dtype=dtype, call=call, classes=classes,
                         null_class=null_class, fractional=bool(fractional), learned_variance=bool(learned_variance),
                         name=name)


def from_pipeline(pipe, *, threads=None, name=None):
    """A `Sampler` over a diffusers pipeline of an unconditional or class-conditional pixel model (DDPMPipeline, DDIMPipeline).

    Its scheduler's config gives schedule, prediction type, spacing and clipping, as diffusers' DDIMScheduler reads them.

    Raises:
        ValueError: the pipeline has no UNet2DModel on pixels, or the scheduler is not supported.
    """
    unet = getattr(pipe, "unet", None)
    if unet is None or any(getattr(pipe, part, None) is not None for part in ("vae", "vqvae", "text_encoder")):
        raise ValueError(f"pipe: expected a pipeline with a unet on pixels, such as DDIMPipeline, found {type(pipe).__name__}")
    config = dict(pipe.scheduler.config)
    config.setdefault("_class_name", type(pipe.scheduler).__name__)
    schedule = _skipstone.Schedule.from_config(config)
    prediction = config.get("prediction_type", "epsilon")
    return _skipstone.Sampler(wrap(unet, prediction=prediction, name=name), schedule=schedule, threads=threads)


@torch.no_grad()
def sample(denoiser, n=1, *, schedule=None, latents=None, noise=None, first=0, callback=None, class_=None, **options):
    """Runs DDIM's whole family with everything on the device: the loop in PyTorch, coefficients and noise from skipstone.

    Equal to `Sampler(denoiser, schedule=schedule).sample(n, …)` within float32 rounding, in one batch.

    Args:
        denoiser: what `wrap` made, or a Sampler of it, which brings its schedule.
        n: how many images [1, or the rows of `latents`].
        schedule: the noise schedule [DDPM's linear one].
        latents: x_T, a tensor or array [n, c, h, w], instead of seeded ones.
        noise: z of every step, [steps, n, c, h, w], instead of seeded noise.
        first: index of the first image.
        callback: called with (step, steps, x) after every step; x is a tensor.
        class_: class of the images, or a list to repeat [the null class, or else every class in turn].
        options: steps, eta, sigma, spacing, times, clip, final_sigma and seed, as for `Sampler.sample`; not guidance, not
            thresholds, not restart, and ddim is the only solver.

    Returns:
        A float32 tensor [n, c, h, w] on the device, not clamped.
    """
    if isinstance(denoiser, _skipstone.Sampler):
        if schedule is not None:
            raise ValueError("schedule: the sampler has one; leave it out")
        sampler = denoiser
        denoiser = sampler.denoiser
    else:
        sampler = _skipstone.Sampler(denoiser, schedule=schedule)
    if not isinstance(denoiser, TorchDenoiser):
        raise TypeError("denoiser: expected what skipstone.torch.wrap made")
    for name in ("guidance", "guidance_interval"):
        if options.get(name) is not None:
            raise ValueError(f"{name}: there is no guidance here; use Sampler.sample")
    seed = options.get("seed", 0) or 0
    shape, function = denoiser.shape, denoiser.function
    if latents is None:
        latents = _skipstone.latents(n, shape, seed=seed, first=first)
    x = torch.as_tensor(latents).to(function.device, torch.float32)
    if x.ndim != 4 or tuple(x.shape[1:]) != tuple(shape) or not len(x):
        raise ValueError(f"latents: expected [n, {', '.join(map(str, shape))}] with n > 0, found {tuple(x.shape)}")
    n = len(x)
    classes = None
    if class_ is None and denoiser.classes is not None:
        class_ = range(denoiser.classes) if denoiser.null_class is None else denoiser.null_class
    if class_ is not None:
        try:
            given = [operator.index(class_)]
        except TypeError:
            given = list(class_)
        options["class_"] = given
        classes = torch.tensor([given[(first + i) % len(given)] for i in range(n)], device=function.device)
    plan = sampler.plan(**options)
    for i, at in enumerate(plan):
        out = function.predict(x.to(function.dtype), at.t, classes).to(torch.float32)
        variance = None
        if out.shape[1] == 2 * x.shape[1]:
            out, variance = out.chunk(2, dim=1)
            variance = 0.5 * (variance + 1)
        if out.shape != x.shape:
            raise ValueError(f"what the module returned: expected {tuple(x.shape)}, found {tuple(out.shape)}")
        x0, eps = _views(denoiser.prediction, x, out, at)
        x = at.x0 * x0 + at.eps * eps
        if at.z != 0:
            z = noise[i] if noise is not None else _skipstone.noise(n, shape, i, seed=seed, first=first)
            sigma = at.z
            if at.least_z is not None:
                low, high = np.log(at.least_z), np.log(at.z)
                sigma = torch.exp(low + variance * (high - low))
            x = x + sigma * torch.as_tensor(z).to(function.device, torch.float32)
        if callback is not None:
            callback(i + 1, len(plan), x)
    return x


def _views(prediction, x, out, at):
    """x̂0 and ε̂ of an output at x, after clipping."""
    signal, noise = at.a_t**0.5, at.one_minus_a_t**0.5
    if prediction == "epsilon":
        x0, eps = (x - noise * out) / signal, out
    elif prediction == "sample":
        x0, eps = out, (x - signal * out) / noise
    else:
        x0, eps = signal * x - noise * out, noise * x + signal * out
    if at.clip is not None:
        how, low, high = at.clip
        x0 = x0.clamp(low, high)
        if how == "rederive-eps":
            eps = (x - signal * x0) / noise
    return x0, eps
