"""Prints the error of skipstone's network output as {"error": ‖Δ‖₂ ÷ ‖exact‖₂}.

    python bench/accuracy.py --skipstone target/release/skipstone --network cifar --threads 2 --work bench/.work

skipstone has no command that prints a network's output. But a run with the single timestep t returns x̂₀, and the output
follows from it without loss: x̂₀ = (x − √(1−a)·ε̂) ÷ √a, or √a·x − √(1−a)·v̂ for a network that predicts v. Rounding x̂₀ to
float32 adds about 1e-7 at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import contest


def alpha_bar() -> float:
    """a of the linear schedule at the timestep of the calls."""
    betas = np.linspace(*contest.BETAS, contest.TIMES)
    return float(np.prod(1.0 - betas[: contest.TIME + 1]))


def output_of(prediction: str, x: np.ndarray, x0: np.ndarray) -> np.ndarray:
    """The network's output, computed from its input and x̂₀."""
    a = alpha_bar()
    if prediction == "v_prediction":
        return (a**0.5 * x - x0) / (1 - a) ** 0.5
    return (x - a**0.5 * x0) / (1 - a) ** 0.5


def predicted(args: argparse.Namespace, extra: list[str], x: np.ndarray) -> np.ndarray:
    """skipstone's x̂₀."""
    with tempfile.TemporaryDirectory() as folder:
        latents, out = Path(folder, "x.npy"), Path(folder, "x0.npy")
        np.save(latents, x)
        command = [args.skipstone, "sample", "--model", contest.folder(args.work, args.network), "--latents", latents,
                   "--times", str(contest.TIME), "--clip", "off", "--threads", str(args.threads), "-o", out, *extra]
        subprocess.run([str(word) for word in command], check=True, stdout=sys.stderr)
        return np.load(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skipstone", type=Path, required=True)
    parser.add_argument("--network", choices=contest.NETWORKS, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args, extra = parser.parse_known_args()
    arrays = np.load(contest.reference(args.work, args.network))
    x = arrays["x"][: len(arrays["y"])]
    # A learned variance, behind the channels of the image, is not compared.
    exact = arrays["y"][:, : x.shape[1]]
    scheduler = contest.folder(args.work, args.network) / "scheduler" / "scheduler_config.json"
    prediction = json.loads(scheduler.read_text(encoding="utf-8")).get("prediction_type", "epsilon")
    y = output_of(prediction, x.astype(np.float64), predicted(args, extra, x).astype(np.float64))
    print(json.dumps({"error": float(np.linalg.norm(y - exact) / np.linalg.norm(exact))}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
