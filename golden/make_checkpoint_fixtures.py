"""Makes crates/skipstone/tests/fixtures/*: checkpoints written by torch itself.

Pinned: Python 3.11, torch 2.15, diffusers 0.42.1. Run from the repository root.

Every value follows a formula that the tests repeat: element k (row-major) of the tensor called NAME is
    base + (sum of the bytes of NAME mod 64) / 16 + (k mod 32) / 128
with base 0 for raw weights and 8 for the moving average. All values are below 16, so they are exact in half precision.
"""

import collections
import gzip
import io
import os
import pickle
import struct
import sys
import tempfile

import diffusers
import safetensors.torch
import torch
from diffusers.training_utils import EMAModel

OUT = "crates/skipstone/tests/fixtures/"


def tensor(name, shape, base=0.0):
    n = 1
    for d in shape:
        n *= d
    k = torch.arange(n, dtype=torch.float64) % 32
    start = base + (sum(name.encode()) % 64) / 16
    return (start + k / 128).to(torch.float32).reshape(shape)


def original(base=0.0):
    """The original code's network: 1 channel, levels of 2 and 4 channels with one block each, attention at the second."""
    names = collections.OrderedDict()

    def wb(name, *shape):
        names[name + ".weight"] = shape
        names[name + ".bias"] = shape[:1]

    def block(name, i, o):
        wb(name + ".norm1", i)
        wb(name + ".conv1", o, i, 3, 3)
        wb(name + ".temb_proj", o, 8)
        wb(name + ".norm2", o)
        wb(name + ".conv2", o, o, 3, 3)
        if i != o:
            wb(name + ".nin_shortcut", o, i, 1, 1)

    def attn(name, c):
        wb(name + ".norm", c)
        for part in ("q", "k", "v", "proj_out"):
            wb(name + "." + part, c, c, 1, 1)

    wb("temb.dense.0", 8, 2)
    wb("temb.dense.1", 8, 8)
    wb("conv_in", 2, 1, 3, 3)
    block("down.0.block.0", 2, 2)
    wb("down.0.downsample.conv", 2, 2, 3, 3)
    block("down.1.block.0", 2, 4)
    attn("down.1.attn.0", 4)
    block("mid.block_1", 4, 4)
    attn("mid.attn_1", 4)
    block("mid.block_2", 4, 4)
    block("up.0.block.0", 4 + 2, 2)
    block("up.0.block.1", 2 + 2, 2)
    block("up.1.block.0", 4 + 4, 4)
    block("up.1.block.1", 4 + 2, 4)
    attn("up.1.attn.0", 4)
    attn("up.1.attn.1", 4)
    wb("up.1.upsample.conv", 4, 4, 3, 3)
    wb("norm_out", 2)
    wb("conv_out", 1, 2, 3, 3)
    return collections.OrderedDict((n, tensor(n, s, base)) for n, s in names.items())


def small():
    flat = tensor("shared", (12,))
    return collections.OrderedDict(
        [
            ("plain", tensor("plain", (2, 3))),
            ("transposed", tensor("transposed", (4, 3)).t()),
            ("first", flat[:6].view(2, 3)),
            ("last", flat[6:]),
            ("half", tensor("half", (5,)).half()),
            ("bf16", torch.tensor([1.5, -2.0, 0.25], dtype=torch.bfloat16)),
            ("double", tensor("double", (2, 2)).double()),
            ("scalar", torch.tensor(2.5)),
            ("steps", torch.tensor([1, 2, 3])),
            ("parameter", torch.nn.Parameter(tensor("parameter", (3,)))),
        ]
    )


def very_old(path, tensors):
    """The legacy container with `_rebuild_tensor` instead of v2, as torch wrote it before 0.4."""
    storages = {}

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, tuple) and obj and obj[0] == "STORAGE":
                return ("storage", torch.FloatStorage, obj[1], "cpu", len(storages[obj[1]]), None)
            return None

        def save_tensor(self, t):
            key = str(94000000 + len(storages))
            storages[key] = t.flatten().tolist()
            args = (("STORAGE", key), 0, tuple(t.shape), tuple(t.stride()))
            self.save_reduce(torch._utils._rebuild_tensor, args, obj=t)

        dispatch = pickle._Pickler.dispatch.copy()
        dispatch[torch.Tensor] = save_tensor

    body = io.BytesIO()
    Pickler(body, 2).dump(tensors)
    with open(path, "wb") as f:
        pickle.dump(0x1950A86A20F9469CFC6C, f, 2)
        pickle.dump(1001, f, 2)
        pickle.dump({"protocol_version": 1001, "little_endian": True,
                     "type_sizes": {"short": 2, "int": 4, "long": 4}}, f, 2)
        f.write(body.getvalue())
        pickle.dump(sorted(storages), f, 2)
        for key in sorted(storages):
            f.write(struct.pack("<q", len(storages[key])))
            f.write(struct.pack(f"<{len(storages[key])}f", *storages[key]))


def zipped(name, data):
    with open(OUT + name + ".gz", "wb") as f:
        f.write(gzip.compress(data, 9, mtime=0))


def unet(base=0.0):
    """The network of `original` in diffusers' layout."""
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(2, 4),
        norm_num_groups=2, attention_head_dim=None, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(tensor(name, tuple(parameter.shape), base))
    return net


class LitEma(torch.nn.Module):
    """The moving average of latent-diffusion (ldm/modules/ema.py): its buffers' names have no dots."""

    def __init__(self, model):
        super().__init__()
        self.register_buffer("decay", torch.tensor(0.9999))
        self.register_buffer("num_updates", torch.tensor(0))
        for name, parameter in model.named_parameters():
            self.register_buffer(name.replace(".", ""), parameter.detach().half() + 8)


class Lightning(torch.nn.Module):
    """The shape of a LightningModule that trains a network `model.diffusion_model` with LitEma."""

    def __init__(self, net):
        super().__init__()
        self.register_buffer("betas", torch.linspace(1e-4, 2e-2, 10))
        self.model = torch.nn.ModuleDict({"diffusion_model": net})
        self.model_ema = LitEma(self.model)


def wrapped():
    """Networks as the wrappers of training programs save them."""
    def save(name, value, **options):
        out = io.BytesIO()
        torch.save(value, out, **options)
        zipped(name, out.getvalue())

    save("wrapped_lightning.ckpt", {"epoch": 3, "global_step": 70, "state_dict": Lightning(unet()).half().state_dict()},
         _use_new_zipfile_serialization=False)
    # diffusers' EMAModel keeps a list without names; DataParallel and torch.compile add prefixes.
    parallel = torch.nn.DataParallel(torch.compile(unet().half()))
    save("wrapped_shadow.pth", {"model": parallel.state_dict(), "ema": EMAModel(unet(8.0).half().parameters()).state_dict()},
         _use_new_zipfile_serialization=False)
    averaged = torch.optim.swa_utils.AveragedModel(unet(8.0).half())
    zipped("wrapped_averaged.safetensors", safetensors.torch.save(averaged.state_dict()))
    both = {f"{name}.{key}": value for name, base in (("unet", 0.0), ("ema_unet", 8.0))
            for key, value in torch.compile(unet(base).half()).state_dict().items()}
    zipped("wrapped_both.safetensors", safetensors.torch.save(both))
    save("wrapped_float8.pth", {k: v.to(torch.float8_e4m3fn) for k, v in unet().state_dict().items()},
         _use_new_zipfile_serialization=False)


def shards():
    """A diffusers folder, written by diffusers, with pickled weights in several files and an index."""
    net = unet()
    with tempfile.TemporaryDirectory() as folder:
        net.save_pretrained(folder, safe_serialization=False, max_shard_size="4KB")
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as f:
                zipped("sharded_" + name, f.read())


def main():
    print("python", sys.version.split()[0], "torch", torch.__version__)
    torch.save(small(), OUT + "small_zip.pth")
    torch.save(small(), OUT + "small_legacy.pth", _use_new_zipfile_serialization=False)
    very_old(OUT + "small_very_old.pth", collections.OrderedDict(
        [("plain", tensor("plain", (2, 3))), ("other", tensor("other", (4,)))]))
    net = original()
    torch.save(net, OUT + "original.ckpt", _use_new_zipfile_serialization=False)
    # The list that the official training script writes, with the optimiser's state reduced to its form.
    model = collections.OrderedDict(("module." + n, t.half()) for n, t in net.items())
    first = next(iter(net.values()))
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros_like(first), "amsgrad": False}},
                 "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999), "params": [0]}]}
    ema = {n: t.half() for n, t in original(8.0).items()}
    torch.save([model, optimizer, 3, 70, ema], OUT + "original_list.pth", _use_new_zipfile_serialization=False)
    # The dictionary that many training scripts write; one of its parts is a tensor that is not a weight.
    parts = io.BytesIO()
    torch.save({"step": torch.tensor(70), "model": net, "optimizer": optimizer, "ema": original(8.0)}, parts)
    zipped("original_dict.pth", parts.getvalue())
    shards()
    wrapped()


main()
