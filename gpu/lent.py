#!/usr/bin/env python3
"""Speed of skipstone on a graphics card beside PyTorch on the same weights, for `lent.sh`. Needs PyTorch and NumPy only."""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np

# The architecture of google/ddpm-cifar10-32.
CONFIG = {
    "_class_name": "UNet2DModel", "act_fn": "silu", "attention_head_dim": None, "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False, "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-6, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
SCHEDULER = {
    "_class_name": "DDPMScheduler", "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "num_train_timesteps": 1000, "clip_sample": True, "prediction_type": "epsilon",
}
FLOP = 12.44e9


def narrow():
    """A quarter of the channels, for lavapipe in place of a card."""
    CONFIG["block_out_channels"] = [c // 4 for c in CONFIG["block_out_channels"]]


def unet(torch):
    """The U-Net, written out, with diffusers' names."""
    widths = CONFIG["block_out_channels"]
    first, last, wide = widths[0], widths[-1], 4 * widths[0]
    nn, functional = torch.nn, torch.nn.functional

    class Resnet(nn.Module):
        def __init__(self, c_in, c_out):
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(32, c_in, 1e-6), nn.Conv2d(c_in, c_out, 3, padding=1)
            self.time_emb_proj = nn.Linear(wide, c_out)
            self.norm2, self.conv2 = nn.GroupNorm(32, c_out, 1e-6), nn.Conv2d(c_out, c_out, 3, padding=1)
            self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

        def forward(self, x, temb):
            h = self.conv1(functional.silu(self.norm1(x)))
            h = h + self.time_emb_proj(functional.silu(temb))[:, :, None, None]
            return self.conv_shortcut(x) + self.conv2(functional.silu(self.norm2(h)))

    class Attention(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.group_norm = nn.GroupNorm(32, c, 1e-6)
            self.to_q, self.to_k, self.to_v = (nn.Linear(c, c) for _ in range(3))
            self.to_out = nn.ModuleList([nn.Linear(c, c)])

        def forward(self, x):
            n, c, h, w = x.shape
            y = self.group_norm(x).flatten(2).transpose(1, 2)
            q, k, v = (layer(y)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
            y = self.to_out[0](functional.scaled_dot_product_attention(q, k, v)[:, 0])
            return x + y.transpose(1, 2).reshape(n, c, h, w)

    class Sampler(nn.Module):
        def __init__(self, c, stride):
            super().__init__()
            self.conv, self.stride = nn.Conv2d(c, c, 3, stride, padding=0 if stride == 2 else 1), stride

        def forward(self, x):
            if self.stride == 2:
                return self.conv(functional.pad(x, (0, 1, 0, 1)))
            return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))

    class Block(nn.Module):
        def __init__(self, resnets, attention, sampler):
            super().__init__()
            self.resnets = nn.ModuleList(Resnet(*channels) for channels in resnets)
            self.attentions = nn.ModuleList(Attention(resnets[-1][1]) for _ in range(attention))
            if sampler:
                name = "downsamplers" if sampler == 2 else "upsamplers"
                setattr(self, name, nn.ModuleList([Sampler(resnets[-1][1], sampler)]))

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.time_embedding = nn.ModuleDict({"linear_1": nn.Linear(first, wide), "linear_2": nn.Linear(wide, wide)})
            self.conv_in = nn.Conv2d(3, first, 3, padding=1)
            skips, before, down = [first], first, []
            for i, c in enumerate(widths):
                down.append(Block([(before, c), (c, c)], 2 * (i == 1), 2 * (i < 3)))
                skips += [c, c] + [c] * (i < 3)
                before = c
            self.down_blocks = nn.ModuleList(down)
            self.mid_block = Block([(last, last), (last, last)], 1, 0)
            up = []
            for i, c in enumerate(reversed(widths)):
                resnets = []
                for _ in range(3):
                    resnets.append((before + skips.pop(), c))
                    before = c
                up.append(Block(resnets, 3 * (i == 2), 1 * (i < 3)))
            self.up_blocks = nn.ModuleList(up)
            self.conv_norm_out, self.conv_out = nn.GroupNorm(32, first, 1e-6), nn.Conv2d(first, 3, 3, padding=1)

        def forward(self, x, t):
            half = torch.arange(first // 2, device=x.device, dtype=torch.float32)
            angle = t.float()[:, None] * torch.exp(-np.log(10000.0) * half / (first // 2 - 1))[None]
            temb = torch.cat([angle.sin(), angle.cos()], 1).to(x.dtype)
            temb = self.time_embedding["linear_2"](functional.silu(self.time_embedding["linear_1"](temb)))
            h = self.conv_in(x)
            skips = [h]
            for i, block in enumerate(self.down_blocks):
                for j, resnet in enumerate(block.resnets):
                    h = resnet(h, temb)
                    if i == 1:
                        h = block.attentions[j](h)
                    skips.append(h)
                if i < 3:
                    h = block.downsamplers[0](h)
                    skips.append(h)
            h = self.mid_block.resnets[0](h, temb)
            h = self.mid_block.resnets[1](self.mid_block.attentions[0](h), temb)
            for i, block in enumerate(self.up_blocks):
                for j, resnet in enumerate(block.resnets):
                    h = resnet(torch.cat([h, skips.pop()], 1), temb)
                    if i == 2:
                        h = block.attentions[j](h)
                if i < 3:
                    h = block.upsamplers[0](h)
            return self.conv_out(functional.silu(self.conv_norm_out(h)))

    torch.manual_seed(0)
    return UNet()


def write_model(model, folder):
    """A diffusers folder, safetensors written by hand."""
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(
        {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}))
    (folder / "unet/config.json").write_text(json.dumps(CONFIG))
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER))
    header, at, parts = {}, 0, []
    for name, value in model.state_dict().items():
        data = value.detach().float().cpu().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "unet/diffusion_pytorch_model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(parts)


class Peer:
    """PyTorch in one configuration: seconds per call or per training step."""

    def __init__(self, torch, model, name, device):
        self.torch, self.device, self.name = torch, device, name
        self.dtype = torch.bfloat16 if "bf16" in name else torch.float32
        self.tf32 = "tf32" in name
        self.model = unet(torch)
        self.model.load_state_dict(model.state_dict())
        self.model = self.model.to(device, memory_format=torch.channels_last)
        self.compiled = "compile" in name
        self.call = torch.compile(self.model, mode="max-autotune") if self.compiled else self.model

    def seconds(self, batch, train, calls):
        torch = self.torch
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        x = torch.randn(batch, 3, 32, 32, device=self.device).contiguous(memory_format=torch.channels_last)
        t = torch.full((batch,), 500, device=self.device)
        kind = self.device.split(":")[0]
        cast = lambda: torch.autocast(kind, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)
        if train:
            adam = torch.optim.Adam(self.model.parameters(), lr=1e-6, fused=kind == "cuda")

            def step():
                adam.zero_grad(set_to_none=True)
                with cast():
                    loss = (self.call(x, t) - x).square().mean()
                loss.backward()
                adam.step()
        else:

            def step():
                with torch.inference_mode(), cast():
                    self.call(x, t)

        wait = torch.cuda.synchronize if kind == "cuda" else (lambda: None)
        for _ in range(2):
            step()
        wait()
        times = []
        for _ in range(calls):
            begun = time.perf_counter()
            step()
            wait()
            times.append(time.perf_counter() - begun)
        return float(np.median(times))


def skipstone(binary, model, batch, train, calls, precision, tune, cache):
    command = [binary, "bench", "--model", model, "--batch", str(batch), "--calls", str(calls), "--json"]
    command += ["--precision", precision] + (["--train"] if train else [])
    tiles = {"SKIPSTONE_GPU_TUNE": tune, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=os.environ | tiles)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[0])["ms_per_call"] / 1e3


def compare(a, b):
    a, b = np.load(a), np.load(b)
    print(f"largest difference {np.abs(a - b).max():.2e} (at most 1e-3), of values up to {np.abs(a).max():.2f}")


def speed(binary, out, quick):
    import torch

    if quick:
        narrow()
    flop = FLOP / (16 if quick else 1)  # a quarter of the channels on either side
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = unet(torch)
    folder = out / "model"
    write_model(model, folder)
    print(f"PyTorch {torch.__version__} on {torch.cuda.get_device_name() if device == 'cuda' else 'the CPU'}")
    cases = [(1, False)] if quick else [(b, False) for b in (1, 16, 128, 256)] + [(128, True)]
    calls, rounds = (1, 1) if quick else (10, 3)
    names = ["eager f32"] if quick else ["eager tf32", "eager bf16", "compile tf32", "compile bf16", "eager f32"]
    peers = {}
    with open(out / "speed.jsonl", "w") as file:

        def note(who, batch, train, seconds):
            line = {"who": who, "batch": batch, "train": train, "ms": 1e3 * seconds, "images_per_s": batch / seconds,
                    "tflops": (3 if train else 1) * flop * batch / seconds / 1e12}
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(f"{who:16} batch {batch:4}{' training' if train else ''}: {1e3 * seconds:9.2f} ms, "
                  f"{line['images_per_s']:9.1f} images/s, {line['tflops']:.2f} TFLOP/s", flush=True)
            return seconds

        for batch, train in cases:
            best = {}
            for _ in range(rounds):
                ours = [(f"skipstone {precision}", "off") for precision in ("f32", "f16")]
                ours += [(f"tuned {precision}", "on") for precision in ("f32", "f16", "bf16")]
                for who, tune in ours:
                    precision = who.split()[1]
                    try:
                        taken = note(who, batch, train, skipstone(binary, folder, batch, train, calls, precision, tune, out))
                        best[who] = min(taken, best.get(who, taken))
                    except (RuntimeError, subprocess.TimeoutExpired) as error:
                        print(f"{who} batch {batch}: {error}", flush=True)
                for who in names:
                    try:
                        peer = peers.setdefault(who, None) or Peer(torch, model, who, device)
                        peers[who] = peer
                        taken = note(who, batch, train, peer.seconds(batch, train, calls))
                        best[who] = min(taken, best.get(who, taken))
                    except Exception as error:  # a configuration that this PyTorch lacks is left out
                        print(f"{who} batch {batch}: {str(error).splitlines()[:1]}", flush=True)
            if "skipstone f32" in best:
                ratios = ", ".join(f"{who} {seconds / best['skipstone f32']:.2f}" for who, seconds in best.items())
                print(f"  time relative to skipstone f32 (above 1: slower): {ratios}", flush=True)
                if not train and batch == cases[-1][0] or batch == 256:
                    print(f"  50,000 images in 50 steps: {50000 * 50 * best['skipstone f32'] / batch / 60:.1f} min", flush=True)
    if device == "cuda":
        print(f"PyTorch's peak memory: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("compare")
    one.add_argument("a")
    one.add_argument("b")
    two = commands.add_parser("speed")
    two.add_argument("binary")
    two.add_argument("out", type=Path)
    two.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "compare":
        compare(arguments.a, arguments.b)
    else:
        speed(arguments.binary, arguments.out, arguments.quick)


if __name__ == "__main__":
    main()
