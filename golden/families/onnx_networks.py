"""onnx_*.onnx, onnx.json, onnx.safetensors: denoisers that are no UNet2DModel, exported by PyTorch, with its answers."""

import io
import logging
import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F

from .common import VALUES, generator, normal, randomise, write_json, write_tensors


class Norm(nn.Module):
    """Root mean square normalisation over the channels."""

    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x):
        return F.normalize(x, dim=1) * self.gain * x.shape[1] ** 0.5


class Block(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.norm, self.time = Norm(channels), nn.Linear(width, 2 * channels)
        self.a, self.b = nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x, t):
        return x + self.b(F.gelu(self.a(self.norm(x)) + self.time(t)[:, :, None, None]))


class LinearAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm, self.qkv = Norm(channels), nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, c, h * w).unbind(1)
        k = k.softmax(-1) @ v.transpose(1, 2)
        return x + self.out((q.softmax(1).transpose(1, 2) @ k).transpose(1, 2).reshape(n, c, h, w))


class Shuffle(nn.Module):
    """Pixel shuffles, RMS normalisation, GELU and linear attention; timesteps are int64 [n]."""

    def __init__(self, c):
        super().__init__()
        self.c, t = c, 2 * c
        self.time = nn.Sequential(nn.Linear(c, t), nn.GELU(), nn.Linear(t, t))
        self.inp, self.attention = nn.Conv2d(3, c, 5, padding=2), LinearAttention(2 * c)
        self.b1, self.b2, self.b3 = Block(c, t), Block(2 * c, t), Block(c, t)
        self.down, self.up, self.out = nn.Conv2d(4 * c, 2 * c, 1), nn.Conv2d(2 * c, 4 * c, 1), nn.Conv2d(2 * c, 3, 3, padding=1)

    def forward(self, x, t):
        frequencies = torch.exp(torch.arange(self.c // 2) * (-9.21034 / (self.c // 2 - 1)))
        angles = t.float()[:, None] * frequencies[None]
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        skip = self.b1(self.inp(x), t)
        y = self.attention(self.b2(self.down(F.pixel_unshuffle(skip, 2)), t))
        y = self.b3(F.pixel_shuffle(self.up(y), 2), t)
        return self.out(torch.cat([y, skip], 1))


class Fixed(nn.Module):
    """Three images per call, one float time for all of them, a class for each; two outputs of the images' size."""

    def __init__(self):
        super().__init__()
        self.conv, self.time, self.classes = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(1, 4), nn.Embedding(5, 4)
        self.out = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x, t, y):
        hidden = self.conv(x) + self.time((t / 1000).reshape(1, 1))[:, :, None, None] + self.classes(y)[:, :, None, None]
        hidden = F.silu(hidden)
        return hidden[:, :2], self.out(hidden)


class Free(nn.Module):
    """Any size; float times [n, 1, 1, 1]; twice the channels, as with a learnt variance."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x, t):
        return self.b(torch.tanh(self.a(torch.cat([x, (t / 1000).expand(-1, 1, *x.shape[2:])], 1))))


def export(name, net, inputs, names, outputs, free):
    out = io.BytesIO()
    axes = {key: dims for key, dims in free.items() if dims}
    with warnings.catch_warnings():
        # The exporter without dynamo is deprecated; most existing files come from it.
        warnings.simplefilter("ignore")
        torch.onnx.export(net, inputs, out, input_names=names, output_names=outputs, dynamic_axes=axes, opset_version=17,
                          dynamo=False)
    onnx.checker.check_model(onnx.load_from_string(out.getvalue()), full_check=True)
    (VALUES / f"onnx_{name}.onnx").write_bytes(out.getvalue())


def build(name, net):
    randomise(net, generator(f"onnx {name}"))
    return net.eval()


def ddim(net, x, times, alpha_bar):
    """DDIM with η = 0 and without clipping, in f64 but for the network, landing on clean data."""
    x = x.double().numpy()
    for t, s in zip(times, times[1:] + [None]):
        with torch.no_grad():
            eps = net(torch.tensor(x).float(), torch.full((len(x),), t)).double().numpy()
        a, b = alpha_bar[t], 1.0 if s is None else alpha_bar[s]
        x = np.sqrt(b) * (x - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - b) * eps
    return torch.tensor(x)


def make():
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    tensors, batch = {}, {0: "n"}

    net = build("shuffle", Shuffle(8))
    x = normal(generator("onnx shuffle data"), 2, 3, 16, 16)
    times, ddim_times = [700, 30], [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    with torch.no_grad():
        tensors |= {"shuffle/x": x, "shuffle/predict": net(x, torch.tensor(times))}
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    tensors["shuffle/ddim10"] = ddim(net, x, ddim_times, alpha_bar).float()
    export("shuffle", net, (x, torch.tensor(times)), ["sample", "timestep"], ["epsilon"],
           {"sample": batch, "timestep": batch, "epsilon": batch})

    net = build("fixed", Fixed())
    x, labels = normal(generator("onnx fixed data"), 3, 2, 6, 10), torch.tensor([4, 0, 2])
    with torch.no_grad():
        predicted = [net(x, torch.tensor(t), labels)[1] for t in (700.0, 30.5)]
    tensors |= {"fixed/x": x, "fixed/predict_700": predicted[0], "fixed/predict_30.5": predicted[1]}
    export("fixed", net, (x, torch.tensor(700.0), labels), ["x", "t", "y"], ["hidden", "v"], {})

    net = build("free", Free())
    x = normal(generator("onnx free data"), 2, 2, 8, 12)
    with torch.no_grad():
        tensors |= {"free/x": x, "free/predict": net(x, torch.tensor([700.0, 30.5]).reshape(2, 1, 1, 1))}
    image = {0: "n", 2: "h", 3: "w"}
    export("free", net, (x, torch.tensor([700.0, 30.5]).reshape(2, 1, 1, 1)), ["sample", "timestep"], ["both"],
           {"sample": image, "timestep": batch, "both": image})
    write_tensors("onnx.safetensors", tensors)
    write_json("onnx.json", {
        "shuffle": {"times": times, "ddim_times": ddim_times}, "fixed": {"times": [700, 30.5], "labels": labels.tolist()},
        "free": {"times": [700, 30.5]},
    })
    refused()


def refused():
    """Valid graphs that are no denoisers, or cannot be run."""
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    image, time = ["n", 1, 4, 4], value("timestep", ["n"])
    graphs = {
        "no_timestep": ([helper.make_node("Relu", ["sample"], ["out"])], [value("sample", image)], image),
        "vectors": ([helper.make_node("Relu", ["sample"], ["out"])], [value("sample", ["n", 16]), time], ["n", 16]),
        # The determinant is an operator of ONNX that rten does not have.
        "operator": (
            [helper.make_node("Det", ["sample"], ["det"]), helper.make_node("Add", ["sample", "sample"], ["out"])],
            [value("sample", image), time], image,
        ),
        # Twice the rows: the shapes of the graph are consistent, but no prediction for each image.
        "rows": ([helper.make_node("Concat", ["sample", "sample"], ["out"], axis=2)], [value("sample", image), time],
                 ["n", 1, "h", 4]),
    }
    for name, (nodes, inputs, shape) in graphs.items():
        outputs = [value("out", shape)] + ([value("det", ["n", 1])] if name == "operator" else [])
        graph = helper.make_graph(nodes, name, inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        (VALUES / f"onnx_{name}.onnx").write_bytes(model.SerializeToString())
