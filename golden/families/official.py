"""official_list.ckpt.gz, official.safetensors: DDPM's U-Net under the key names of the original checkpoints.

The network is written from its description, not from diffusers: residual blocks of group norm, SiLU and 3×3 convolutions,
attention by 1×1 convolutions, and an upward path whose levels are numbered like those of the downward path. The importer's
renaming of keys is therefore tested by a network that does not know diffusers' names.
"""

import gzip
import io

import torch
from diffusers import UNet2DModel
from torch import nn
from torch.nn import functional as F

from .common import VALUES, ExactTimesteps, generator, normal, write_json, write_tensors
from .unets import in_double

CONFIG = dict(ch=32, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[4], image_size=8, in_channels=3, out_ch=3)


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


class Residual(nn.Module):
    """norm–SiLU–conv, plus the projected time, norm–SiLU–conv, plus the input (by a 1×1 convolution if widths differ)."""

    def __init__(self, channels, out, temb):
        super().__init__()
        self.norm1, self.conv1 = norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.temb_proj = nn.Linear(temb, out)
        self.norm2, self.conv2 = norm(out), nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x, temb):
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class SelfAttention(nn.Module):
    """softmax(q·k/√c)·v over all pixels, added to the input."""

    def __init__(self, channels):
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * q.shape[1] ** -0.5, dim=2)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


class Level(nn.Module):
    """Holds the blocks of one level under the key names of the files."""


class OriginalUnet(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, attn_resolutions, image_size, in_channels, out_ch):
        super().__init__()
        self.ch, self.layers = ch, num_res_blocks
        wide = 4 * ch
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, wide), nn.Linear(wide, wide)])
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        widths = [ch * m for m in ch_mult]
        skips, now, size = [ch], ch, image_size
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            level = Level()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks):
                level.block.append(Residual(now, width, wide))
                now = width
                if size in attn_resolutions:
                    level.attn.append(SelfAttention(now))
                skips.append(now)
            if i + 1 < len(widths):
                level.downsample = Down(now)
                skips.append(now)
                size //= 2
            self.down.append(level)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1 = Residual(now, now, wide), SelfAttention(now)
        self.mid.block_2 = Residual(now, now, wide)
        levels = []
        for i, width in reversed(list(enumerate(widths))):
            level = Level()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.block.append(Residual(now + skips.pop(), width, wide))
                now = width
                if size in attn_resolutions:
                    level.attn.append(SelfAttention(now))
            if i > 0:
                level.upsample = Up(now)
                size *= 2
            levels.append(level)
        # Level 0 is the finest in the upward path too, although it runs last.
        self.up = nn.ModuleList(levels[::-1])
        self.norm_out, self.conv_out = norm(now), nn.Conv2d(now, out_ch, 3, padding=1)

    def forward(self, x, t):
        temb = ExactTimesteps(self.ch, False, 1)(t).to(x.dtype)
        temb = self.temb.dense[1](F.silu(self.temb.dense[0](temb)))
        skips = [self.conv_in(x)]
        for level in self.down:
            for j, block in enumerate(level.block):
                h = block(skips[-1], temb)
                skips.append(level.attn[j](h) if len(level.attn) else h)
            if hasattr(level, "downsample"):
                skips.append(level.downsample(skips[-1]))
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(skips[-1], temb)), temb)
        for level in reversed(self.up):
            for j, block in enumerate(level.block):
                h = block(torch.cat([h, skips.pop()], dim=1), temb)
                if len(level.attn):
                    h = level.attn[j](h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        assert not skips
        return self.conv_out(F.silu(self.norm_out(h)))


def coarse(module, gen):
    """Sets weights to ±c: the signs reveal a wrong order of a tensor, and gzip shrinks the file to a tenth."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            sign = torch.randint(0, 2, parameter.shape, generator=gen).float() * 2 - 1
            if parameter.dim() == 1:
                fine = torch.round(normal(gen, *parameter.shape) * 8) / 32
                parameter.copy_(fine if name.endswith("bias") else 1 + fine)
            else:
                # A power of two near 1/√fan_in, exact in every float format.
                fan_in = torch.tensor(float(parameter[0].numel()))
                parameter.copy_(sign * 2.0 ** -torch.ceil(torch.log2(fan_in) / 2))


def as_diffusers(model, config):
    """The same weights in diffusers' own network, to check the forward pass above."""
    levels = len(config["ch_mult"])
    sizes = [config["image_size"] >> i for i in range(levels)]
    attended = [size in config["attn_resolutions"] for size in sizes]
    other = UNet2DModel(
        sample_size=config["image_size"], in_channels=config["in_channels"], out_channels=config["out_ch"],
        block_out_channels=[config["ch"] * m for m in config["ch_mult"]], layers_per_block=config["num_res_blocks"],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attended],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in attended[::-1]],
        downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, attention_head_dim=None,
    )
    words = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut", "norm": "group_norm", "q": "to_q", "k": "to_k",
             "v": "to_v", "proj_out": "to_out.0"}
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] in ("down", "up"):
            index = int(parts[1]) if parts[0] == "down" else levels - 1 - int(parts[1])
            new = [f"{parts[0]}_blocks.{index}"]
            if parts[2].endswith("sample"):
                new += [f"{parts[2]}rs.0", *parts[3:]]
            else:
                new += [{"block": "resnets", "attn": "attentions"}[parts[2]], parts[3]]
                new += [words.get(parts[4], parts[4]), *parts[5:]]
        elif parts[0] == "mid":
            place = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}[parts[1]]
            new = ["mid_block", place, words.get(parts[2], parts[2]), *parts[3:]]
        elif parts[0] == "temb":
            new = [f"time_embedding.linear_{int(parts[2]) + 1}", parts[3]]
        else:
            new = [{"norm_out": "conv_norm_out"}.get(parts[0], parts[0]), *parts[1:]]
        name = ".".join(new)
        state[name] = value.reshape(other.state_dict()[name].shape)
    other.load_state_dict(state, strict=True)
    return in_double(other.eval())


def make():
    raw, ema = OriginalUnet(**CONFIG), OriginalUnet(**CONFIG)
    coarse(raw, generator("official raw"))
    coarse(ema, generator("official ema"))
    # A real optimiser's state, but for two parameters only: the full state would be twice the size of the network.
    optimizer = torch.optim.Adam(raw.parameters(), lr=2e-4)
    before = {key: value.clone() for key, value in raw.state_dict().items()}
    for parameter in (raw.conv_in.bias, raw.conv_out.bias):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    raw.load_state_dict(before)
    states = [
        {f"module.{key}": value for key, value in raw.state_dict().items()},
        optimizer.state_dict(),
        3,
        1234,
        dict(ema.state_dict()),
    ]
    buffer = io.BytesIO()
    torch.save(states, buffer)
    # The gzip header has no time and no name, so every run gives the same bytes.
    (VALUES / "official_list.ckpt.gz").write_bytes(gzip.compress(buffer.getvalue(), 9, mtime=0))

    gen = generator("official data")
    x, t = normal(gen, 2, 3, 8, 8), torch.tensor([7, 500])
    with torch.no_grad():
        outputs = {f"y_{name}": model.double()(x.double(), t) for name, model in (("raw", raw), ("ema", ema))}
        for name, model in (("raw", raw), ("ema", ema)):
            theirs = as_diffusers(model, CONFIG)(x.double(), t).sample
            torch.testing.assert_close(outputs[f"y_{name}"], theirs, rtol=1e-11, atol=1e-12)
    for name, y in outputs.items():
        print(f"official {name}: rms {float(y.square().mean() ** 0.5):.3g}")
    write_tensors("official.safetensors", {"x": x, "t": t, **outputs})
    write_json("official.json", {
        "config": CONFIG, "parameters": sum(p.numel() for p in raw.parameters()), "epoch": 3, "step": 1234,
        "keys": {key: list(value.shape) for key, value in raw.state_dict().items()},
    })
