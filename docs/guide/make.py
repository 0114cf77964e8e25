"""Makes every figure and picture of the guide that depends on the built-in model, using only the skipstone command.

    cargo build --release
    python -m venv .venv && .venv/bin/pip install numpy==2.4.6 pillow==13.0.0
    .venv/bin/python docs/guide/make.py                       # everything: under an hour on two quiet cores
    .venv/bin/python docs/guide/make.py reconstruct solvers   # only these parts; --list names them

Pictures go to docs/images. In the pages, the text between `<!-- made: PART -->` and `<!-- /made -->` is replaced. All other
text must hold for any model. Needs Fashion-MNIST (apt-get install dataset-fashion-mnist). The same model gives the same
text and the same bytes.
"""

import argparse
import gzip
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs/guide"
IMAGES = ROOT / "docs/images/guide"
DATA = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")


class Kitchen:
    """Runs the command in a temporary folder; figures are computed on n images."""

    def __init__(self, command, folder, n):
        self.command, self.folder, self.n = command, folder, n

    def run(self, line, **names):
        words = [self.command] + [word.format(**names) for word in line.split()]
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{line}\n{done.stderr}")
        return done

    def json(self, line, **names):
        """The JSON lines a command prints."""
        return [json.loads(found) for found in self.run(line + " --json", **names).stdout.splitlines()]

    def array(self, name):
        return np.load(self.folder / name)

    def keep(self, name, to, below=IMAGES):
        shutil.copyfile(self.folder / name, below / to)

    def test_images(self, n):
        """The first test images as pictures 0.png, 1.png, …"""
        raw = gzip.decompress(DATA.read_bytes())[16:]
        pixels = np.frombuffer(raw, np.uint8)[: n * 784].reshape(n, 28, 28)
        for i in range(n):
            Image.fromarray(pixels[i]).save(self.folder / f"{i}.png")


def picture(rows, to):
    """Rows of images [n, 1, h, w] as one picture, in skipstone's own layout."""
    gap, scale = 2, 2
    h, w = rows[0].shape[2:]
    columns = len(rows[0])
    canvas = np.full((gap + len(rows) * (h + gap), gap + columns * (w + gap)), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = gap + y * (h + gap), gap + x * (w + gap)
            shown = np.floor((np.clip(image[0], -1, 1) + 1) * 127.5 + 0.5)
            canvas[top : top + h, left : left + w] = shown.astype(np.uint8)
    canvas = canvas.repeat(scale, 0).repeat(scale, 1)
    Image.fromarray(canvas).save(IMAGES / to, optimize=True)


def rms(values):
    return math.sqrt(float(np.mean(np.asarray(values, np.float64) ** 2)))


def power(value, digits=1):
    """1.2e-3 as the guide writes it."""
    return "0" if value == 0 else f"{value:.{digits}e}".replace("e-0", "e-").replace("e+0", "e")


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def reconstruct(k):
    line = f"reconstruct --images fashion-mnist -n {k.n} --steps 10,20,50,100,200,500,1000 -o table2"
    printed = k.run(line).stdout.splitlines()[:-1]
    k.keep("table2/error.png", "reconstruction-error.png")
    k.keep("table2/images.png", "reconstruction.png")
    rows = [row.split() for row in printed[1:]]
    first, last = float(rows[0][2]), float(rows[-1][2])
    exponent = math.log(first / last) / math.log(100)
    k.run("encode --images fashion-mnist -n {n} --steps 50 -o x.npy", n=k.n)
    length = rms(k.array("x.npy"))
    return {
        "reconstruct": "\n".join(["```", *printed, "```", "", (
            f"From 10 to 1000 steps the error falls by a factor of {first / last:,.0f}, as S to the power of "
            f"−{exponent:.1f}. (For a first-order method with small steps the power is −2.) The latents are "
            f"somewhat too short: at 50 steps their root mean square is {length:.2f}, where random latents have 1.")]),
    }


def exact(k):
    n, cost, error, length = k.n, {}, {}, {}
    methods = ["ddim", "fixed-point", "bdia", "edict"]
    for method in methods:
        for row in k.json("reconstruct --images fashion-mnist -n {n} --steps 10,20,50 --method {m}", n=n, m=method):
            error[method, row["steps"]], cost[method, row["steps"]] = row["mse"], row["calls"]
        for steps in (10, 50):
            k.run("encode --images fashion-mnist -n {n} --steps {s} --method {m} -o x.npy", n=n, s=steps, m=method)
            x = k.array("x.npy")
            length[method, steps] = rms(x if x.ndim == 4 else x[0])
    rows = [
        [f"`{m}`"] + [v for s in (10, 20, 50) for v in (power(error[m, s]), f"{cost[m, s]:.0f}")]
        + [f"{length[m, 10]:.2f} / {length[m, 50]:.2f}"]
        for m in methods
    ]
    head = ["", "S = 10", "calls", "S = 20", "calls", "S = 50", "calls", "length of x_T, S = 10 / 50"]

    ends = []
    for spacing in ("linear", "quadratic"):
        for steps in (10, 50):
            words = "--images fashion-mnist -n {n} --steps {s} --spacing {p} --method fixed-point"
            found = k.json("encode " + words + " -o x.npy", n=n, s=steps, p=spacing)[0]["convergence"]
            back = k.json("reconstruct " + words, n=n, s=steps, p=spacing)[0]
            clean, others = found[0], found[1:]
            ends.append([
                spacing, str(steps), str(clean["t"]), power(clean["residual"]),
                str(max(step["iterations"] for step in others)),
                str(sum(step["unconverged"] for step in others)), power(back["mse"]),
            ])
    through_files = []
    originals = None
    for method in ("bdia", "edict"):
        k.run("encode --images fashion-mnist -n {n} --steps 10 --method {m} -o p.npy", n=n, m=method)
        k.run("decode --latents p.npy --steps 10 --method {m} -o back.npy", m=method)
        if originals is None:
            raw = gzip.decompress(DATA.read_bytes())[16:]
            pixels = np.frombuffer(raw, np.uint8)[: n * 784].reshape(n, 1, 28, 28)
            originals = pixels.astype(np.float64) / 127.5 - 1
        off = np.abs(k.array("back.npy") - originals)
        mse, most = float(np.mean((off / 2) ** 2)), float(off.max()) * 127.5
        through_files.append(f"{power(mse)} for `{method}` (largest deviation: {most:.1g} of one of the 256 levels)")
    return {
        "exact": table(head, rows),
        "convergence": table(
            ["spacing", "S", "last index", "residual of the step onto clean data", "most calls in any other step",
             "not converged (images × other steps)", "round-trip error"], ends),
        "through-files": "Through files, the error of the same images at S = 10 was " + " and ".join(through_files) + ".",
    }


def interpolation(k):
    k.test_images(2)
    k.run("interpolate --seeds 1,2 --steps 20 --points 9 -o line.png")
    k.run("interpolate --seeds 1,2,3,4 --steps 20 --points 5 -o square.png")
    k.run("interpolate --images 0.png,1.png --steps 50 --points 9 -o between.png")
    for name in ("line.png", "square.png", "between.png"):
        k.keep(name, name)
    return {}


def consistency(k):
    k.run("sample --steps 10,20,50,100,1000 -n 6 -o rows.png")
    k.keep("rows.png", "rows.png")
    found = k.run("sample --steps 10,20,50,100,1000 -n {n} -o all.png", n=k.n).stdout.splitlines()[:-1]
    return {"consistency": "\n".join(["```", *found, "```", "", f"{k.n} latents; the picture above shows the first six."])}


def stochastic(k):
    said = k.run("encode --images fashion-mnist -n 6 --steps 50 --eta 1 --noise-out z.npy -o x_T.npy").stderr
    back = re.search(r"^decode with: (skipstone .*)$", said, re.M).group(1)
    missed = re.search(r"will differ from the images by (\S+)", said).group(1)
    words = back.removeprefix("skipstone ")
    k.run(words + " -o own-noise.png")
    k.run(words.replace("--noise z.npy ", "") + " -o other-noise.png")
    for name in ("own-noise.png", "other-noise.png"):
        k.keep(name, name)
    noise = k.array("z.npy")
    spread = [rms(noise[i]) for i in (0, len(noise) // 2, len(noise) - 2)]
    return {"stochastic": "\n".join([
        "```", "skipstone encode --images fashion-mnist -n 6 --steps 50 --eta 1 --noise-out z.npy -o x_T.npy", back, "```",
        "", "The first command prints the second. The left picture uses the recovered noise, and the images come "
        f"back to within {missed} (root mean square of network values). The right picture uses the same "
        "latents with other noise (without `--noise`): the noise of the steps decides the image. The recovered noise has a "
        f"root mean square of {spread[0]:.2f} in the first step, {spread[1]:.2f} in the middle and {spread[2]:.2f} in the "
        "last but one."])}


def inpainting(k):
    k.test_images(2)
    mask = np.zeros((28, 28), np.uint8)
    mask[14:] = 255
    Image.fromarray(mask).save(k.folder / "lower-half.png")
    for name, flags in (("fill-resampled", ""), ("fill-projected", " --resamples 1")):
        k.run("sample -n 6 --steps 50 --eta 1 --inpaint 1.png --mask lower-half.png" + flags + f" -o {name}.png")
        k.keep(name + ".png", name + ".png")
    return {}


SOLVERS = ["ddim", "ve-euler", "heun", "ab2", "ab3", "ab4", "dpm++2m", "dpm++3m", "unipc", "unipc3", "deis2", "deis"]


def solvers(k):
    n = k.n
    k.run("sample -n {n} --steps 100 --spacing linear --solver heun -o ref.npy", n=n)
    reference = k.array("ref.npy")
    off, calls = {}, {}
    for budget in (10, 20, 50):
        for solver in SOLVERS:
            steps = budget // 2 if solver == "heun" else budget
            line = "sample -n {n} --steps {s} --spacing linear --solver {v} -o x.npy"
            calls[solver, budget] = k.json(line, n=n, s=steps, v=solver)[0]["calls"]
            off[solver, budget] = rms(k.array("x.npy") - reference)

    def name(solver):
        if solver != "heun":
            return f"`{solver}`"
        return "`heun` (" + ", ".join(str(calls["heun", b]) for b in (10, 20, 50)) + " calls)"

    rows = [[name(s)] + [f"{off[s, b]:.3g}" for b in (10, 20, 50)] for s in SOLVERS]
    best = {b: min(SOLVERS, key=lambda s: off[s, b]) for b in (10, 20, 50)}
    gain = {b: off["ddim", b] / off[best[b], b] for b in best}
    nearest = ", ".join(f"`{best[b]}` at {b} calls ({gain[b]:.1f} times closer than `ddim`)" for b in best)
    return {
        "solvers": f"Root mean square distance to the solution of the equation (Heun with 199 calls), data range "
        f"−1..1, {n} images, linear spacing:\n\n" + table(["network calls, about", "10", "20", "50"], rows),
        "nearest": f"Closest here: {nearest}.",
    }


def eight(k, runs):
    """The first eight images of each run: flags of `sample`."""
    shown = []
    for flags in runs:
        k.run("sample -n 8 -o x.npy " + flags)
        shown.append(k.array("x.npy"))
    return shown


def solver_pictures(k):
    runs = [f"--steps {5 if s == 'heun' else 10} --solver {s}" for s in ("ddim", "heun", "dpm++2m", "unipc3", "deis", "sa", "ve-euler")]
    picture(eight(k, [run + " --spacing linear" for run in [*runs, "--steps 100 --solver heun"]]), "solvers.png")
    return {}


def step_pictures(k):
    noises, times = ("--eta 1", "--sigma analytic", "--sigma analytic --eta 0"), ("linear", "optimal", "fitted")
    runs = [*noises, *(f"--spacing {spacing}" for spacing in times)]
    many = "--steps 100 --solver heun --spacing linear"
    picture(eight(k, ["--steps 10 " + run for run in runs] + [many]), "steps.png")
    return {}


def likelihood(k):
    n = k.n
    found = k.json("likelihood --data fashion-mnist --steps 1000 -n {n} -o elbo", n=n)[0]
    k.keep("elbo/terms.png", "elbo-terms.png")
    decoder = found["terms"][-1]["bits"]
    steps = sum(term["bits"] for term in found["terms"]) - decoder
    bound = (
        f"Built-in model, first {n} test images, all 1000 steps at η = 1: at most {found['bits_per_dim']:.3f} ± "
        f"{found['standard_error']:.3f} bits per dimension. The steps contribute {steps:.3f}, the decoder {decoder:.3f} and "
        f"the prior {power(found['prior_bits'])}.")
    ode = "likelihood --data fashion-mnist --method ode -n {n} --steps {s}"
    runs = [k.json(ode, n=n, s=s)[0] for s in (25, 50, 100)] + [k.json(ode + " --spacing linear", n=n, s=50)[0]]
    probes = k.json(ode + " --probes 2", n=n, s=25)[0]
    head = ["steps", "25", "50", "100", "50, linear spacing"]
    values = table(head, [["bits per dimension"] + [f"{run['bits_per_dim']:.3f}" for run in runs]])
    return {
        "bound": bound,
        "discretisation": f"The first {n} test images, bits per dimension (±{runs[2]['standard_error']:.3f} over images; "
        f"every column uses the same images):\n\n{values}",
        "probes": f"`--probes 2` or more shows its share of the ±: {probes['probe_error']:.4f} bits of ±"
        f"{probes['standard_error']:.3f} at 25 steps and two probes.",
    }


def steps(k):
    n, rows, errors = k.n, [], {}
    ways = [("linear", ""), ("linear", " --sigma analytic"), ("optimal", ""), ("optimal", " --sigma analytic")]
    last = None
    for budget in (10, 20, 50):
        row = [str(budget)]
        for spacing, flags in ways:
            line = "likelihood --data fashion-mnist -n {n} --steps {s} --spacing {p}" + flags
            found = k.json(line, n=n, s=budget, p=spacing)[0]
            row.append(f"{found['bits_per_dim']:.4g}")
            errors[budget, spacing, flags] = found["standard_error"]
            if (budget, spacing, flags) == (10, "linear", ""):
                last = found
        rows.append(row)
    own = "likelihood --data fashion-mnist --split train -n {n} --steps {s}"
    every, fifty = k.json(own, n=64, s=1000)[0], k.json(own + " --spacing optimal", n=64, s=50)[0]
    times = ", ".join(str(term["t"]) for term in k.json(own + " --spacing optimal", n=1, s=10)[0]["terms"])
    deviation = "; ".join(
        f"{spacing} " + ", ".join(f"{errors[b, spacing, '']:.2g}" for b in (10, 20, 50))
        for spacing in ("linear", "optimal"))
    decoder = last["terms"][-1]
    return {
        "steps": f"Bound in bits per dimension, first {n} test images, the same for all cells (standard error over "
        f"images at 10, 20 and 50 calls: {deviation}):\n\n"
        + table(["calls", "linear", "linear, analytic", "optimal", "optimal, analytic"], rows),
        "times": f"Ten optimal calls are at {times}. On the images of the calibration, all 1000 steps give "
        f"{every['bits_per_dim']:.3f} and 50 optimal ones {fifty['bits_per_dim']:.3f}. Ten linear steps fail in "
        f"the last one, from index {decoder['t']} onto clean data with a decoder whose σ₁ fits t = 1: it costs "
        f"{decoder['bits']:.1f} of the {last['bits_per_dim']:.1f} bits.",
    }


def front(k):
    """The pictures samples-50.png (in the README) and strip.png."""
    k.run("sample -n 64 --steps 50 -o samples-50.png")
    k.run("sample -n 4 --steps 20 --spacing quadratic --trajectory strip.png -o x.npy")
    for name in ("samples-50.png", "strip.png"):
        k.keep(name, name, IMAGES.parent)
    return {}


PARTS = {part.__name__: part for part in (
    front, reconstruct, exact, interpolation, consistency, stochastic, inpainting, solvers, solver_pictures,
    likelihood, steps, step_pictures)}


def put(blocks):
    """Writes each block into the page that has its markers."""
    left = dict(blocks)
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text()
        for name in list(left):
            start, end = f"<!-- made: {name} -->\n", "\n<!-- /made -->"
            at = text.find(start)
            if at >= 0:
                stop = text.index(end, at)
                text = text[: at + len(start)] + left.pop(name) + text[stop:]
        if text != page.read_text():
            page.write_text(text)
    if left:
        sys.exit(f"no page has a place for {', '.join(left)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--skipstone", default=str(ROOT / "target/release/skipstone"))
    parser.add_argument("--images", type=int, default=64, help="images to compute figures on (64)")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(PARTS))
        return
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not DATA.exists():
        sys.exit("Fashion-MNIST is missing: apt-get install dataset-fashion-mnist")
    for name in arguments.parts or PARTS:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            put(PARTS[name](Kitchen(str(Path(arguments.skipstone).resolve()), Path(folder), arguments.images)))
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)


main()
