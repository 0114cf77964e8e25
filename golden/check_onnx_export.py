"""Checks that ONNX Runtime predicts from an exported file what diffusers predicts from the model's folder.

    python golden/check_onnx_export.py MODEL_DIR NET.onnx [--tolerance 1e-5]

Exit status: 0 success, 1 a check failed, 2 wrong usage.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from diffusers import UNet2DModel

TIMES = (999, 0, 437)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    args = parser.parse_args()
    subfolder = "unet" if (args.folder / "unet").is_dir() else None
    net = UNet2DModel.from_pretrained(args.folder, subfolder=subfolder, local_files_only=True).eval()
    # By path, because the weights may be in a second file.
    onnx.checker.check_model(str(args.file), full_check=True)
    session = onnxruntime.InferenceSession(str(args.file), providers=["CPUExecutionProvider"])
    size, channels, classes = net.config.sample_size, net.config.in_channels, net.config.num_class_embeds
    size = [size, size] if isinstance(size, int) else list(size)
    learned = net.config.time_embedding_type == "learned"
    gen = torch.Generator().manual_seed(0)
    for n in (1, 3):
        x = torch.randn(n, channels, *size, generator=gen)
        t = torch.tensor([time % net.config.num_train_timesteps if learned else time for time in TIMES[:n]])
        feed = {"sample": x.numpy(), "timestep": t.numpy().astype(np.int64 if learned else np.float32)}
        labels = None
        if classes or net.config.class_embed_type:
            labels = torch.arange(n) % (classes or 5)
            feed["class_labels"] = labels.numpy()
            if net.config.class_embed_type == "identity":
                # UNet2DModel adds what it is given to the time embedding.
                labels = labels[:, None].float()
        with torch.no_grad():
            expected = net(x, t, class_labels=labels).sample.numpy()
        found = session.run(["out_sample"], feed)[0]
        distance = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print(f"{n} image(s): relative distance {distance:.1e}")
        if found.shape != expected.shape or not distance <= args.tolerance:
            print(f"failed: expected at most {args.tolerance}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
