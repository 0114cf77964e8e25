"""Measures how the cost of a call grows with batch, image size, width and threads, varying one at a time.

    python bench/growth.py --work bench/.work [--skipstone target/release/skipstone] [--rounds 3]

The starting point is the small network (channels 32, 64, 128, that is width 32; 32×32 pixels) at batch 8 with two threads.
Prints a Markdown table for each series: time per call, time per image, GFLOP/s by definition, peak memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

import networks

BASE = {"width": 32, "size": 32, "batch": 8, "threads": 2}
SERIES = {"batch": (1, 2, 4, 8, 16, 32, 64), "size": (16, 32, 64, 128), "width": (16, 32, 64, 96, 128), "threads": (1, 2)}


def folder(work: Path, width: int, size: int) -> Path:
    """A pipeline folder with random weights; kept between runs."""
    path = work / "growth" / f"{width}-{size}"
    if not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        torch.manual_seed(0)
        shape = dict(networks.ARCHITECTURES["small"], sample_size=size, block_out_channels=(width, 2 * width, 4 * width))
        DDIMPipeline(UNet2DModel(**shape), DDIMScheduler()).save_pretrained(partial)
        partial.rename(path)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--skipstone", type=Path, default=Path("target/release/skipstone"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cases = list(dict.fromkeys(tuple({**BASE, name: value}.items()) for name, values in SERIES.items() for value in values))
    measured: dict[tuple, list[dict]] = {case: [] for case in cases}
    for case in cases:
        folder(args.work, dict(case)["width"], dict(case)["size"])
    for round_ in range(args.rounds):
        print(f"round {round_ + 1} of {args.rounds}", file=sys.stderr)
        for case in cases:
            c = dict(case)
            command = [args.skipstone, "bench", "--model", folder(args.work, c["width"], c["size"]), "--batch", c["batch"],
                       "--threads", c["threads"], "--json"]
            done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
            measured[case].append(json.loads(done.stdout))
    for name, values in SERIES.items():
        print(f"\n| {name} | ms a call | ms an image | GFLOP/s | peak memory, MB |\n|---|---|---|---|---|")
        for value in values:
            lines = measured[tuple({**BASE, name: value}.items())]
            ms = median(line["ms_per_call"] for line in lines)
            rate, peak = median(line["gflop_per_s"] for line in lines), median(line["peak_rss_mb"] for line in lines)
            print(f"| {value} | {ms:.1f} | {ms / lines[0]['batch']:.2f} | {rate:.0f} | {peak:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
