#!/usr/bin/env python3
"""Exports the Inception network of FID to an ONNX file for `skipstone evaluate --features inception.onnx:pool3`.

    pip install -r tools/features/requirements.txt
    python tools/features/export_inception.py --weights pt_inception-2015-12-05-6726825d.pth -o inception.onnx

The weights are in the release `fid_weights` of the repository mseitzer/pytorch-fid. Neither this script nor skipstone includes
them. The network is pytorch-fid's own `InceptionV3`, unchanged, with its preprocessing inside the graph:

    x in 0..1, [n, 3, h, w]  ->  bilinear to 299x299 (align_corners=False)  ->  2x - 1  ->  Inception  ->  pool3, [n, 2048]

A test with random weights:

    python tools/features/export_inception.py --random 0 --check check/
    SKIPSTONE_INCEPTION=$PWD/check cargo test --release -p skipstone-eval --features onnx --test inception -- --nocapture

The first command makes a network of that shape with random weights and exports it to check/inception.onnx. It also makes six
pictures, coloured and gray, from 28x28 to 310x400, and computes their features from the files with pytorch-fid's own
`get_activations` (check/expected.npy). The second command computes the features of the same pictures with skipstone and
compares them. The 2048 features of each picture differed by 2.2e-7 to 2.4e-7 (relative, L2; on AVX-512), because pytorch-fid
and skipstone round differently in single precision.

**It has not been run on the real weights**, which were not available to us. Before you quote a score as an FID, compare one
with pytorch-fid's on two folders of your own; `python -m pytorch_fid` reads skipstone's `.npz` statistics.
"""

import argparse
import pathlib
import sys

import numpy as np
import torch
import torchvision
from PIL import Image
from pytorch_fid import fid_score, inception


def network(state):
    """pytorch-fid's network with this state instead of the one it downloads."""
    inception.load_state_dict_from_url = lambda *_, **__: state
    return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()


def random_state(seed):
    """A random state of the right shapes whose features neither vanish nor explode."""
    kept = torchvision.models.Inception3.load_state_dict
    torchvision.models.Inception3.load_state_dict = lambda *_, **__: None
    inception.load_state_dict_from_url = lambda *_, **__: {}
    state = inception.fid_inception_v3().state_dict()
    torchvision.models.Inception3.load_state_dict = kept
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in state.items():
        uniform = lambda low, high: torch.rand(tensor.shape, generator=draw) * (high - low) + low
        if name.endswith("conv.weight"):
            fan_in = tensor[0].numel()
            state[name] = torch.randn(tensor.shape, generator=draw) * (2 / fan_in) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            state[name] = uniform(0.5, 1.5)
        elif name.endswith(("bn.bias", "running_mean")):
            state[name] = uniform(-0.3, 0.3)
    return state


class Pool3(torch.nn.Module):
    """The first of the feature maps that pytorch-fid's network returns, flattened to rows."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, image):
        return self.inner(image)[0].flatten(1)


def export(model, path):
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    with torch.no_grad():
        torch.onnx.export(
            Pool3(model).eval(), (torch.rand(2, 3, 40, 48),), str(path), dynamo=True, opset_version=18, external_data=False,
            input_names=["image"], output_names=["pool3"], dynamic_shapes={"image": sizes},
        )


def pictures(folder, seed):
    """Makes noisy pictures of several sizes, coloured and gray."""
    draw = np.random.default_rng(seed)
    paths = []
    for i, (height, width, mode) in enumerate(
        [(32, 32, "RGB"), (28, 28, "L"), (64, 48, "RGB"), (299, 299, "RGB"), (200, 330, "RGB"), (400, 310, "L")]
    ):
        coarse = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC), dtype=float)
        rough = smooth + draw.normal(0, 12, smooth.shape)
        image = Image.fromarray(np.clip(rough, 0, 255).astype(np.uint8)).convert(mode)
        paths.append(folder / f"{i}.png")
        image.save(paths[-1])
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=pathlib.Path, help="the .pth file of pytorch-fid")
    source.add_argument("--random", type=int, metavar="SEED", help="random weights, for a check")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="the ONNX file to write")
    parser.add_argument("--check", type=pathlib.Path, metavar="DIR", help="also pictures and what pytorch-fid makes of them")
    arguments = parser.parse_args()
    output = arguments.output or (arguments.check and arguments.check / "inception.onnx")
    if output is None:
        parser.error("name the file to write with -o")
    if arguments.weights:
        state = torch.load(arguments.weights, map_location="cpu", weights_only=True)
    else:
        state = random_state(arguments.random)
    model = network(state)
    if arguments.check:
        arguments.check.mkdir(parents=True, exist_ok=True)
        paths = pictures(arguments.check, 0)
        # One at a time, because they differ in size.
        expected = fid_score.get_activations(paths, model, batch_size=1, num_workers=0)
        np.save(arguments.check / "expected.npy", expected)
        print(f"features of {len(paths)} pictures: mean {expected.mean():.4f}, deviation {expected.std():.4f}", file=sys.stderr)
    export(model, output)
    print(output)


if __name__ == "__main__":
    main()
