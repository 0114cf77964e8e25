"""blocks.safetensors: the network's layers one by one, computed by diffusers' and PyTorch's own modules in f64."""

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D

from .common import ExactTimesteps, generator, normal, randomise, write_json, write_tensors


def resnet(channels, out, **more):
    return ResnetBlock2D(in_channels=channels, out_channels=out, temb_channels=16, groups=4, eps=1e-6, **more)


def attention(channels, head_dim, groups):
    return Attention(
        channels, heads=channels // head_dim, dim_head=head_dim, rescale_output_factor=1.0, eps=1e-6,
        norm_num_groups=groups, residual_connection=True, bias=True, upcast_softmax=True,
        _from_deprecated_attn_block=True,
    )


# name: (module, shape of x, whether it takes a time embedding, description for the reader)
def cases():
    image = (2, 8, 4, 6)
    return {
        "resnet": (resnet(8, 8), image, True, dict(kind="resnet", groups=4, eps=1e-6)),
        "resnet_widening": (resnet(8, 12), image, True, dict(kind="resnet", groups=4, eps=1e-6)),
        "resnet_scale_shift": (resnet(8, 8, time_embedding_norm="scale_shift"), image, True,
                               dict(kind="resnet", groups=4, eps=1e-6, scale_shift=True)),
        "resnet_scaled": (resnet(8, 8, output_scale_factor=1.4142), image, True,
                          dict(kind="resnet", groups=4, eps=1e-6, output_scale_factor=1.4142)),
        "resnet_down": (resnet(8, 8, down=True), image, True, dict(kind="resnet", groups=4, eps=1e-6, down=True)),
        "resnet_up": (resnet(8, 8, up=True), image, True, dict(kind="resnet", groups=4, eps=1e-6, up=True)),
        "attention_one_head": (attention(8, 8, 4), image, False, dict(kind="attention", heads=1, groups=4, eps=1e-6)),
        "attention_heads": (attention(12, 4, 4), (2, 12, 5, 3), False, dict(kind="attention", heads=3, groups=4, eps=1e-6)),
        "attention_no_norm": (attention(8, 4, None), image, False, dict(kind="attention", heads=2, groups=None)),
        "downsample_padding_0": (Downsample2D(8, use_conv=True, padding=0, name="op"), image, False,
                                 dict(kind="downsample", padding=0)),
        "downsample_padding_1": (Downsample2D(8, use_conv=True, padding=1, name="op"), image, False,
                                 dict(kind="downsample", padding=1)),
        "upsample": (Upsample2D(8, use_conv=True), image, False, dict(kind="upsample")),
        "group_norm": (torch.nn.GroupNorm(4, 8, eps=1e-6), image, False, dict(kind="group_norm", groups=4, eps=1e-6)),
        "group_norm_large_eps": (torch.nn.GroupNorm(2, 8, eps=1e-2), image, False,
                                 dict(kind="group_norm", groups=2, eps=1e-2)),
        "conv3": (torch.nn.Conv2d(3, 5, 3, padding=1), (2, 3, 5, 9), False, dict(kind="conv3")),
        "time_mlp": (TimestepEmbedding(8, 32), (3, 8), False, dict(kind="time_mlp")),
    }


def make():
    tensors, index = {}, []
    for name, (module, shape, takes_embedding, facts) in cases().items():
        gen = generator(f"block {name}")
        randomise(module, gen)
        x = normal(gen, *shape)
        # An offset reveals a variance that is computed by cancellation.
        if facts["kind"] == "group_norm":
            x = 3 + 0.5 * x
        temb = normal(gen, shape[0], 16) if takes_embedding else None
        for key, value in module.state_dict().items():
            # diffusers registers Downsample2D's convolution twice under some names.
            tensors[f"{name}/weight/{key}"] = value.clone()
        module = module.double().eval()
        x_exact = x.double().requires_grad_()
        temb_exact = temb.double().requires_grad_() if takes_embedding else None
        y = module(x_exact, temb_exact) if takes_embedding else module(x_exact)
        dy = normal(gen, *y.shape)
        (y * dy.double()).sum().backward()
        tensors |= {f"{name}/x": x, f"{name}/y": y.detach(), f"{name}/dy": dy, f"{name}/grad/x": x_exact.grad.float()}
        if takes_embedding:
            tensors |= {f"{name}/temb": temb, f"{name}/grad/temb": temb_exact.grad.float()}
        for key, parameter in module.named_parameters():
            assert key == "to_k.bias" or parameter.grad.norm() > 1e-3, f"{name}: the output does not depend on {key}"
            tensors[f"{name}/grad/{key}"] = parameter.grad.float()
        index.append({"name": name, **facts})
    times = torch.tensor([0, 1, 2, 10, 500, 998, 999])
    tensors["time_embedding/t"] = times
    for channels in (8, 32):
        for flip, shift in ((False, 1), (True, 0), (False, 0), (True, 1)):
            name = f"time_embedding/channels_{channels}_flip_{int(flip)}_shift_{shift}"
            tensors[name] = ExactTimesteps(channels, flip, shift)(times)
            # The f64 embedding is ours; diffusers' f32 embedding must agree as far as the precision of its angle allows.
            from diffusers.models.embeddings import get_timestep_embedding

            theirs = get_timestep_embedding(times, channels, flip, shift)
            torch.testing.assert_close(theirs.double(), tensors[name], rtol=0, atol=2e-4)
            tensors[f"{name}/diffusers"] = theirs
    write_tensors("blocks.safetensors", tensors)
    write_json("blocks.json", {"cases": index})
