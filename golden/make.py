"""Makes every file under golden/values with programs other than skipstone, such as PyTorch, diffusers and NumPy.

    python golden/make.py            all families
    python golden/make.py steps ...  only these families

golden/README.md describes the files.
"""

import argparse
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from families import (  # noqa: E402
    adm, blocks, data, distillation, inversion, multistep, official, onnx_networks, samples, schedules, scores, solvers,
    solvers_diffusers, steps, timesteps, unets,
)
from families.common import VALUES, write_json  # noqa: E402

# Order matters: `samples` and `inversion` run the networks that `unets` has written.
FAMILIES = {
    "schedules": schedules.make,
    "timesteps": timesteps.make,
    "steps": steps.make,
    "unets": unets.make,
    "blocks": blocks.make,
    "samples": samples.make,
    "official": official.make,
    "inversion": inversion.make,
    "solvers": solvers.make,
    "solvers_diffusers": solvers_diffusers.make,
    "multistep": multistep.make,
    "distillation": distillation.make,
    "scores": scores.make,
    "onnx_networks": onnx_networks.make,
    "data": data.make,
    "adm": adm.make,
}
# Limits in bytes: files beyond them are too large for the repository.
FILE_LIMIT, TOTAL_LIMIT = 600_000, 4_000_000


def versions():
    """Records the versions that made the values, to explain a difference between two sets of values."""
    pins = {name: metadata.version(name) for name in ("torch", "diffusers", "numpy", "safetensors")}
    write_json("versions.json", {"python": platform.python_version(), "machine": platform.machine(), **pins})


def check_pins(file, install):
    """Exits if an installed version is not the pinned one."""
    for line in (Path(__file__).parent / file).read_text().split():
        name, wanted = line.split("==")
        try:
            found = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            found = "none"
        if found != wanted:
            sys.exit(f"{name}: expected {wanted}, found {found}; {install} golden/{file}")


def check_sizes():
    """Checks the size of each file and of all together."""
    total = 0
    for path in sorted(VALUES.rglob("*")):
        if path.is_file():
            size = path.stat().st_size
            total += size
            print(f"{size:>9}  {path.relative_to(VALUES)}")
            if size > FILE_LIMIT:
                sys.exit(f"{path}: {size} bytes, over {FILE_LIMIT}")
    print(f"{total:>9}  in total")
    if total > TOTAL_LIMIT:
        sys.exit(f"{total} bytes in total, over {TOTAL_LIMIT}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="*", help=f"one of {', '.join(FAMILIES)}; all when none is named")
    chosen = parser.parse_args().family or list(FAMILIES)
    unknown = [name for name in chosen if name not in FAMILIES]
    if unknown:
        parser.error(f"no family {unknown[0]!r}; expected {', '.join(FAMILIES)}")
    check_pins("requirements.txt", "pip install -r")
    if "solvers" in chosen:
        # k-diffusion declares an older NumPy, which its samplers do not need.
        check_pins("requirements-solvers.txt", "pip install --no-deps -r")
    if "adm" in chosen:
        # Its declared dependencies are for training only.
        check_pins("requirements-adm.txt", "pip install --no-deps -r")
    if {"scores", "onnx_networks"} & set(chosen):
        check_pins("requirements-scores.txt", "pip install -r")
    if "data" in chosen:
        check_pins("requirements-data.txt", "pip install -r")
    # One thread and deterministic algorithms give the same bits on every run.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if set(chosen) == set(FAMILIES):
        shutil.rmtree(VALUES, ignore_errors=True)
    VALUES.mkdir(parents=True, exist_ok=True)
    for name in FAMILIES:
        if name in chosen:
            FAMILIES[name]()
    versions()
    check_sizes()


if __name__ == "__main__":
    main()
