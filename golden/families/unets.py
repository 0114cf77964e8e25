"""unet_<name>/: tiny UNet2DModels, each with its config, weights, a forward and a backward pass."""

import logging

import torch
from diffusers import UNet2DModel

from .common import VALUES, ExactTimesteps, generator, normal, randomise, relative, write_tensors

BASE = dict(
    freq_shift=1, flip_sin_to_cos=False, downsample_padding=0, layers_per_block=1, norm_num_groups=2, norm_eps=1e-6,
    attention_head_dim=None, in_channels=3, out_channels=3,
)
SMALL = dict(sample_size=8, norm_num_groups=1, freq_shift=0, in_channels=1, out_channels=1)
D, A, R = "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"
U, B, S = "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"


def blocks(down, up, channels):
    return dict(down_block_types=down, up_block_types=up, block_out_channels=channels)


# The comment of each says what it tests.
ARCHITECTURES = {
    # A small google/ddpm-cifar10-32: four levels, attention at the second.
    "cifar": BASE | dict(sample_size=16) | blocks((D, A, D, D), (U, U, B, U), (4, 4, 8, 8)),
    # Height ≠ width, two input and output channels, symmetric padding.
    "rectangular": BASE | dict(sample_size=(8, 16), in_channels=2, out_channels=2, downsample_padding=1, norm_eps=1e-5)
    | blocks((D, A), (B, U), (4, 8)),
    # Several heads; cosines first, no frequency shift.
    "heads": BASE | dict(sample_size=8, attention_head_dim=4, flip_sin_to_cos=True, freq_shift=0)
    | blocks((A, D), (U, B), (4, 12)),
    # The time embedding scales and shifts; the middle attention then has no normalisation.
    "scale_shift": BASE | dict(sample_size=8, resnet_time_scale_shift="scale_shift") | blocks((D, A), (B, U), (4, 8)),
    # The same with groups set for the middle attention.
    "attn_groups": BASE | dict(sample_size=8, resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4)
    | blocks((D, D), (U, U), (4, 8)),
    # No attention in the middle; two residual blocks per level.
    "no_attention": BASE | dict(sample_size=8, add_attention=False, layers_per_block=2) | blocks((D, D), (U, U), (4, 8)),
    # The middle block's sums are divided.
    "mid_scale": BASE | dict(sample_size=8, mid_block_scale_factor=1.4142) | blocks((D, A), (B, U), (4, 8)),
    # Conditioned on five classes; one image channel.
    "classes": BASE | dict(sample_size=8, num_class_embeds=5, in_channels=1, out_channels=1, attention_head_dim=8)
    | blocks((D, A), (B, U), (4, 8)),
    # Resampling inside residual blocks, both by block type and by downsample_type/upsample_type.
    "resnet_sampling": BASE | dict(sample_size=8, downsample_type="resnet", upsample_type="resnet")
    | blocks((R, A, D), (U, B, S), (4, 4, 8)),
    # The same with scale-shift, a coarsest level without attention, and symmetric padding in the plain block.
    "resnet_scale_shift": BASE | dict(
        sample_size=(16, 8), resnet_time_scale_shift="scale_shift", downsample_padding=1, attention_head_dim=4
    ) | blocks((D, R, R), (S, S, U), (4, 4, 8)),
    # A learned table of timesteps.
    "learned_time": BASE | dict(sample_size=8, time_embedding_type="learned", num_train_timesteps=20, flip_sin_to_cos=True,
                                freq_shift=0) | blocks((D, A), (B, U), (4, 8)),
    # Other activations, with few channels to save space. GELU; no middle block.
    "no_middle": BASE | SMALL | dict(act_fn="gelu", mid_block_type=None) | blocks((D, A), (B, U), (2, 4)),
    # Mish; the time embedding's functions embed the class numbers; resampling inside residual blocks.
    "mish": BASE | SMALL | dict(act_fn="mish", class_embed_type="timestep", resnet_time_scale_shift="scale_shift")
    | blocks((R, D), (U, S), (2, 4)),
    # ReLU; the class number is added to the time embedding as it is.
    "relu": BASE | SMALL | dict(act_fn="relu", class_embed_type="identity") | blocks((D, D), (U, U), (2, 4)),
    # 28×28 → 14×14 → 7×7, input mapped x → 2x − 1, attention at an odd size.
    "gray28": BASE | dict(sample_size=28, in_channels=1, out_channels=1, center_input_sample=True)
    | blocks((D, D, A), (B, U, U), (4, 4, 8)),
}
LABELS = {"classes": (3, 0), "mish": (312, 5), "relu": (2, 1)}
TIMES = {"learned_time": (3, 19), "gray28": (0, 712)}


def size_of(config):
    size = config["sample_size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def build(name):
    """The named model, in eval mode, f32."""
    model = UNet2DModel(**ARCHITECTURES[name])
    randomise(model, generator(f"unet {name}"))
    return model.eval()


def in_double(model):
    """The model in f64 throughout, including the positional embedding. Changes the model."""
    model = model.double()
    config = model.config
    if config.time_embedding_type == "positional":
        model.time_proj = ExactTimesteps(config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift)
    return model


def one(name):
    config = ARCHITECTURES[name]
    model = build(name)
    gen = generator(f"unet {name} data")
    height, width = size_of(config)
    x = normal(gen, 2, config["in_channels"], height, width)
    dy = normal(gen, 2, config["out_channels"], height, width)
    t = torch.tensor(TIMES.get(name, (7, 500)))
    labels = torch.tensor(LABELS[name]) if name in LABELS else None
    # Labels that are added as they are need a dimension to spread over.
    spread = labels[:, None] if config.get("class_embed_type") == "identity" else labels

    tensors = {f"weight/{key}": value for key, value in model.state_dict().items()}
    tensors |= {"x": x, "t": t, "dy": dy}
    if labels is not None:
        tensors["labels"] = labels
    with torch.no_grad():
        y_f32 = model(x, t, class_labels=spread).sample
    model.save_config(VALUES / f"unet_{name}")

    model = in_double(model)
    x_exact = x.double().requires_grad_()
    y = model(x_exact, t, class_labels=spread).sample
    (y * dy.double()).sum().backward()
    tensors |= {"y": y.detach(), "y_f32": y_f32, "grad/x": x_exact.grad.float()}
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name}: {key} has no part in the output"
        tensors[f"grad/{key}"] = parameter.grad.float()
        # Groups of one channel would cancel the time embedding. A key's bias does not change the softmax.
        if not key.endswith("to_k.bias"):
            assert parameter.grad.norm() > 1e-3, f"{name}: the output does not depend on {key}"
    deviation = relative(y_f32, y.detach())
    print(f"unet_{name}: {sum(p.numel() for p in model.parameters())} parameters, f32 deviates by {deviation:.1e}, "
          f"y rms {float(y.detach().square().mean() ** 0.5):.2f}")
    assert deviation < 1e-4
    write_tensors(f"unet_{name}/tensors.safetensors", tensors)


def make():
    # diffusers warns about deprecated options, which are under test here.
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    for name in ARCHITECTURES:
        one(name)
