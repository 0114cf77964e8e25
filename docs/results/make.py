"""Makes the tables, figures and CSV files of docs/results.md from what docs/results/run.sh has drawn and scored.

    python -m venv .venv && .venv/bin/pip install matplotlib==3.11.2
    .venv/bin/python docs/results/make.py [RESULTS]      # default: runs/results

It replaces the text between `<!-- made: PART -->` and `<!-- /made -->` in the page. The CSV files beside the page remember what
was scored before, for instance on another machine: rows of RESULTS replace those of the same cell, and rows of models that have
none in RESULTS are dropped. What needs more than the rows, and cells that neither has, stay as they are, and it says so.
"""

import csv
import io
import json
import re
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/results.md"
TABLES = ROOT / "docs/results"
IMAGES = ROOT / "docs/images/results"

NOISES = [0.0, 0.2, 0.5, 1.0, "hat"]
NAMES = {0.0: "η = 0 (DDIM)", 0.2: "η = 0.2", 0.5: "η = 0.5", 1.0: "η = 1 (DDPM)", "hat": "σ̂", "analytic": "analytic"}

# Cells of Table 1: names, noise and spacing of its lines.
STEPS = [10, 20, 50, 100]
LINES = [(NAMES[eta] + ", linear τ", (eta, "linear")) for eta in NOISES]
LINES += [(NAMES[eta] + ", quadratic τ", (eta, "quadratic")) for eta in (0.0, 1.0)]

# Table 1 of the paper, CIFAR-10, FID: by noise, S = 10, 20, 50, 100, 1000.
PAPER = {
    0.0: [13.36, 6.84, 4.67, 4.16, 4.04],
    0.2: [14.04, 7.11, 4.77, 4.25, 4.09],
    0.5: [16.66, 8.35, 5.25, 4.46, 4.29],
    1.0: [41.07, 18.36, 8.01, 5.78, 4.73],
    "hat": [367.43, 133.37, 32.72, 9.99, 3.17],
}


def typed(name, text):
    """A field of a CSV as `evaluate` keeps it in its JSON."""
    if text == "":
        return None
    if name == "machines":
        return text.split("; ")
    try:
        return json.loads(text)  # numbers, booleans and lists
    except json.JSONDecodeError:
        return text


class Table:
    """The rows of one evaluation: those of RESULTS, and of the same models those of the CSV beside the page. With `every`, rows of
    other models stay in the CSV as well."""

    def __init__(self, folder, every=False):
        self.folder = folder
        self.path = TABLES / f"{folder.name}.csv"
        read = lambda path: list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []
        new, before = read(folder / "results.csv"), read(self.path)
        models = {r["model"] for r in new}
        cell = lambda r: (r["name"], r["model"], r["n"], r["first"])
        scored = {cell(r) for r in new}
        before = [r for r in before if cell(r) not in scored and (every or not new or r["model"] in models)]
        self.text = new + before
        if not self.text:
            raise LookupError(f"{folder.name}: no rows")
        self.rows = [{name: typed(name, text) for name, text in r.items()} for r in self.text]

    def cell(self, steps, eta=0.0, spacing="linear", solver="ddim", **others):
        key = {"steps": steps, "eta": eta, "spacing": spacing, "solver": solver, **others}
        found = [r for r in self.rows if key.items() <= r.items()]
        if len(found) != 1:
            raise LookupError(f"{self.folder.name}: {len(found)} rows of {key}")
        return found[0]

    def models(self):
        """The hashes of the networks, in the order in which they were scored."""
        return list(dict.fromkeys(r["model"] for r in self.rows))

    def complete(self, rows):
        """The latest model that has so many rows. Those of a model may come from several machines, one after the other; until it
        has all, the page keeps the model before."""
        of = {model: [r for r in self.rows if r["model"] == model] for model in self.models()}
        found = [own for own in of.values() if len(own) == rows]
        if not found:
            raise LookupError(f"{self.folder.name}: no model has all {rows} rows")
        self.rows = found[0]
        return self

    def csv(self):
        """The CSV beside the page."""
        out = io.StringIO()
        # The first row has every column that `evaluate` knows now; older rows may lack some.
        writer = csv.DictWriter(out, self.text[0], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.text)
        return (self.path, out.getvalue().encode())

    def provenance(self):
        r = self.rows[0]
        return (
            f"(Fréchet distance in the features of `{r['features']}` to {r['train']:,} training images; model {r['model'][:12]}, "
            f"{r['weights']} weights, {'' if r['arithmetic'] == 'f32' else r['arithmetic'] + ', '}clip {r['clip']}, seed {r['seed']}, "
            f"n = {r['n']:,}. Floor, the distance of "
            f"{r['floor_n']:,} test images: **{r['frechet_floor']:.3f}**.)"
        )


def in_halves(rows, n):
    """The distance of all n images, and in brackets those of both halves: `rows` are those of one cell."""
    found = {(r["n"], r["first"]): number(r["frechet"]) for r in rows}
    if len(rows) != 3 or set(found) != {(n, 0), (n // 2, 0), (n // 2, n // 2)}:
        raise LookupError(f"not one row each for the whole and both halves of {n} images: {sorted(found)}")
    return f"{found[n, 0]} ({found[n // 2, 0]}, {found[n // 2, n // 2]})"


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def number(value):
    """Three or four digits that say something."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def grid(title, lines, columns, value, best=None):
    """A table of `value(line, column)`; `best` (min or max) makes the best of a column bold."""
    values = [[value(line, column) for column in columns] for _, line in lines]
    tops = [best(v for v in column if v is not None) if best else None for column in zip(*values)]
    rows = [
        [name] + [f"**{number(v)}**" if top is not None and v == top else number(v) for v, top in zip(row, tops)]
        for (name, _), row in zip(lines, values)
    ]
    return markdown([title] + [f"S = {s}" for s in columns], rows)


def image(figure, name):
    """A figure as a file beside the page."""
    out = io.BytesIO()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return (IMAGES / name, out.getvalue())


def curves(name, x, lines, floor, ticks=None, ms=None):
    """The plot of Fréchet distances: `lines` are names, values of x, distances and styles ("none": stars without a line);
    `floor` is that of test images. With `ms`, x counts calls, and a second axis says how many milliseconds they take."""
    figure, ax = plt.subplots(figsize=(7.5, 4))
    for label, xs, distances, dashes in lines:
        marker, size = ("*", 11) if dashes == "none" else ("o", 4)
        ax.plot(xs, distances, marker=marker, ms=size, lw=1.3, label=label, ls=dashes)
    ax.axhline(floor, color="gray", lw=1, ls=":", label="test images")
    ax.set(xscale="log", yscale="log", xlabel=x, ylabel="Fréchet distance")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.tick_params(axis="y", which="minor", labelsize=7)
    if ticks:
        ax.set_xticks(ticks, labels=ticks)
        ax.xaxis.minorticks_off()
    if ms:
        above = ax.secondary_xaxis("top", functions=(lambda calls: calls * ms, lambda time: time / ms))
        above.set_xlabel("milliseconds for an image")
        above.set_xticks([calls * ms for calls in ticks], labels=[f"{calls * ms:.0f}" for calls in ticks], fontsize=8)
        above.xaxis.minorticks_off()
    ax.grid(True, which="both", alpha=0.2)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return image(figure, name)


def comparable(*tables):
    """Refuses tables whose scores do not compare."""
    names = ["n", "first", "seed", "model", "process", "weights", "clip", "features", "data_digest", "program"]
    found = {tuple(r[name] for name in names) for t in tables for r in t.rows}
    if len(found) != 1:
        raise LookupError("rows that do not compare: " + " / ".join(t.folder.name for t in tables))


def table1(folder):
    t = Table(folder, every=True).complete(len(LINES) * len(STEPS))
    steps, lines = STEPS, LINES
    of = lambda field: lambda line, s: t.cell(s, *line)[field]

    dashes = {"linear": "-", "quadratic": "--"}
    plotted = [(name, steps, [t.cell(s, *line)["frechet"] for s in steps], dashes[line[1]]) for name, line in lines]
    plot = curves("table1.png", "steps S", plotted, t.rows[0]["frechet_floor"], ticks=steps)

    base = t.cell(100)["frechet"]
    shape = lambda eta, s: t.cell(s, eta)["frechet"] / base
    papers = lambda eta, s: PAPER[eta][[10, 20, 50, 100, 1000].index(s)]
    compared = []
    for eta in NOISES:
        compared.append([NAMES[eta]] + [f"{number(shape(eta, s))} ({number(papers(eta, s) / PAPER[0.0][3])})" for s in steps])
    # What few steps add to what the network's own error costs.
    above = [
        ["here"] + [number(t.cell(s)["frechet"] - base) for s in steps[:-1]],
        ["paper, CIFAR-10"] + [number(papers(0.0, s) - PAPER[0.0][3]) for s in steps[:-1]],
    ]
    seconds = sum(r["seconds"] for r in t.rows)
    machines = sorted({re.sub(r"^1 threads", "1 thread", machine) for r in t.rows for machine in r["machines"]})
    texts = {
        "table1": grid("", lines, steps, of("frechet"), min) + "\n\n" + t.provenance()
        + f"\n\nSampling took {seconds / 3600:.1f} hours of wall-clock time in total ({' or '.join(machines)}; other work ran at "
        "the same time).",
        "kid": grid("KID × 1000", lines, steps, lambda line, s: 1000 * t.cell(s, *line)["kid"], min)
        + f"\n\n(Standard errors up to {1000 * max(r['kid_error'] for r in t.rows):.2f}; test images {1000 * t.rows[0]['kid_floor']:.3f}.)",
        "above": markdown(["η = 0"] + [f"S = {s}" for s in steps[:-1]], above),
        "shape": markdown([""] + [f"S = {s}" for s in steps], compared),
        "precision": grid("precision", lines, steps, of("precision"), max)
        + f"\n\n(Test images: {t.rows[0]['precision_test']:.3f}.)",
        "recall": grid("recall", lines, steps, of("recall"), max)
        + f"\n\n(Test images: {t.rows[0]['recall_test']:.3f}.)",
        "memory": "The median pixel distance from a sample to its nearest training image, divided by the same distance for test "
        f"images, is between {min(r['memorisation'] for r in t.rows):.2f} and {max(r['memorisation'] for r in t.rows):.2f} in all "
        "cells.",
    }
    return texts, [t.csv(), plot]


def consistency(folder):
    t = Table(folder)
    texts = {
        "latent": grid("share of variance", LINES, STEPS, lambda line, s: t.cell(s, *line)["latent_variance"]),
        "coarse": grid("distance to S = 100", LINES, STEPS, lambda line, s: t.cell(s, *line)["coarse_rms"])
        + f"\n\n(n = {t.rows[0]['n']:,}.)",
    }
    return texts, [t.csv()]


def pictures(folder):
    figure, axes = plt.subplots(len(LINES), len(STEPS), figsize=(1.75 * len(STEPS), 1.8 * len(LINES)))
    for (name, (eta, spacing)), row in zip(LINES, axes):
        row[0].set_ylabel(name, fontsize=8)
        for s, ax in zip(STEPS, row):
            ax.imshow(plt.imread(folder / f"{s}-{eta}-{spacing}.png"), cmap="gray")
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"S = {s}", fontsize=8)
    return {}, [image(figure, "samples.png")]


def thousand(folder):
    t = Table(folder)
    lines = [(NAMES[eta], eta) for eta in (0.0, 1.0, "hat")]
    table = grid("", lines, [20, 50, 1000], lambda eta, s: t.cell(s, eta)["frechet"], min)
    return {"thousand": table + "\n\n" + t.provenance()}, [t.csv()]


def calibrated(folder):
    t = Table(folder)
    lines = [
        ("η = 0, linear τ", (0.0, "linear")),
        ("η = 0, optimal τ", (0.0, "optimal")),
        ("η = 1, linear τ", (1.0, "linear")),
        ("analytic σ, linear τ", ("analytic", "linear")),
    ]
    value = lambda line, s: t.cell(s, *line)["frechet"]
    return {"calibrated": grid("", lines, [10, 20, 50, 100], value, min) + "\n\n" + t.provenance()}, [t.csv()]


def half(folder):
    t, plain = Table(folder), Table(folder.parent / "table1")
    comparable(t, plain)
    found = [name for name in ("f16", "bf16") if any(r["arithmetic"] == name for r in t.rows)]
    of = lambda s: [plain.cell(s)] + [t.cell(s, arithmetic=name) for name in found]
    rows = [
        [f"S = {s}"] + [f"{r['frechet']:.4f}" for r in of(s)] + [f"{1000 * r['kid']:.3f}" for r in of(s)] for s in (20, 50)
    ]
    names = ["f32", *found]
    table = markdown([""] + [f"Fréchet, {name}" for name in names] + [f"KID × 1000, {name}" for name in names], rows)
    return {"half": table + "\n\n" + plain.provenance()}, [t.csv()]


def noise(folder):
    runs = [json.loads(line) for line in (folder.parent / "noise.jsonl").read_text().splitlines()]
    seconds = lambda eta: [run["run"]["seconds"] for run in runs if run["eta"] == eta]
    ratios = sorted(a / b for a, b in zip(seconds("1"), seconds("0"), strict=True))
    text = (
        f"Sampling 64 images in 20 steps takes {statistics.median(ratios):.3f} times as long with η = 1 as with η = 0 "
        f"(median of {len(ratios)} interleaved rounds, range {ratios[0]:.3f} to {ratios[-1]:.3f}; two threads)."
    )
    return {"noise": text}, []


def spread(folder):
    """The standard deviation of a Fréchet distance at the n of Table 1, as a share of it, from halves of its images."""
    t = Table(folder, every=True).complete(2 * len(NOISES) * len(STEPS))
    cells = {}
    for r in t.rows:
        cells.setdefault((r["steps"], r["eta"]), []).append(r["frechet"])
    if any(len(halves) != 2 for halves in cells.values()):
        raise LookupError("spread: not both halves of every cell")
    # Of a half: half the mean square of the differences. Of the whole: half of that.
    deviation = (statistics.fmean((2 * (a - b) / (a + b)) ** 2 for a, b in cells.values()) / 4) ** 0.5
    text = (
        f"Other latents and other noise would change a distance in the table by about {100 * deviation:.0f} % (standard "
        f"deviation, estimated from scoring both halves of each cell's images separately, n = {t.rows[0]['n']:,}). All cells share "
        "their latents, so differences between cells are more certain than that."
    )
    return {"spread": text}, [t.csv()]


# Training steps of the models in part weaker, by the start of their hashes.
LENGTHS = {"d66e7ad96178": 50_000, "d8b08cd5e313": 10_000, "543e557c56": 1_000}


def weaker(folder):
    t = Table(folder, every=True)
    scores = {(r["model"], r["steps"], r["eta"]): r["frechet"] for r in t.rows}
    steps = [20, 50, 100]
    rows = []
    for start, length in LENGTHS.items():
        model = next(model for model, _, _ in scores if model.startswith(start))
        for eta in (0.0, 0.5, 1.0):
            rows.append([f"{length:,} training steps, {NAMES[eta]}"] + [number(scores[model, s, eta]) for s in steps])
    table = markdown([""] + [f"S = {s}" for s in steps], rows) + f"\n\n(n = {t.rows[0]['n']:,}; other options as above.)"
    return {"weaker": table}, [t.csv()]


def choices(folder):
    t = Table(folder)
    names = ["the recipe", "learning rate 7.5e-4", "learning rate 3e-3", "widths 24, 48, 72"]
    # Moving average and raw weights are two networks, scored one after the other.
    averages, raws = t.models()[::2], t.models()[1::2]
    if len(raws) != len(names):
        raise LookupError(f"choices: {len(t.models())} models")
    rows = [
        [name] + [number(t.cell(20, eta, model=model)["frechet"]) for eta in (0.0, 1.0) for model in pair]
        for name, pair in zip(names, zip(averages, raws))
    ]
    table = markdown(["1,000 training steps", "η = 0", "η = 0, raw weights", "η = 1", "η = 1, raw weights"], rows)
    return {"choices": table + f"\n\n(n = {t.rows[0]['n']:,}, S = 20; other options as above.)"}, [t.csv()]


def call_times(folder):
    """Milliseconds of a call for an image, by solver: medians of the interleaved rounds."""
    times = {}
    for line in (folder / "times.jsonl").read_text().splitlines():
        timed = json.loads(line)
        run = timed["run"]
        times.setdefault(timed["solver"], []).append(1000 * run["seconds"] / (run["n"] * run["calls"]))
    return {solver: statistics.median(found) for solver, found in times.items()}


# Rows of the frontier: name, how its cells are found, and whether the picture shows it.
FRONTIER = [
    ("`ddim`, η = 1", {"solver": "ddim", "eta": 1.0}, True),
    ("`ddim`", {"solver": "ddim"}, True),
    ("`ve-euler`", {"solver": "ve-euler"}, False),
    ("`heun`", {"solver": "heun"}, True),
    ("`dpm2`", {"solver": "dpm2"}, False),
    ("`ab2`", {"solver": "ab2"}, False),
    ("`ab3`", {"solver": "ab3"}, False),
    ("`ab4`", {"solver": "ab4"}, False),
    ("`dpm++2m`", {"solver": "dpm++2m"}, True),
    ("`dpm++3m`", {"solver": "dpm++3m"}, False),
    ("`unipc`", {"solver": "unipc"}, False),
    ("`unipc3`", {"solver": "unipc3"}, True),
    ("`deis2`", {"solver": "deis2"}, False),
    ("`deis`", {"solver": "deis"}, True),
    ("`sa`", {"solver": "sa"}, True),
    ("`dpm++2m-sde`", {"solver": "dpm++2m-sde"}, False),
    ("`dpm++2m`, Karras's τ", {"solver": "dpm++2m", "spacing": "karras"}, False),
    ("`deis`, Karras's τ", {"solver": "deis", "spacing": "karras"}, False),
    ("`ddim`, fitted τ", {"solver": "ddim", "spacing": "fitted"}, False),
    ("`dpm++2m`, fitted τ", {"solver": "dpm++2m", "spacing": "fitted"}, False),
    ("`deis`, fitted τ", {"solver": "deis", "spacing": "fitted"}, False),
]


def frontier(folder):
    t = Table(folder)
    model = t.models()[0]
    columns = [4, 6, 8, 10, 20, 50]

    def cells(key):
        key = {"eta": 0.0, "spacing": "linear", **key, "model": model}
        return {r["calls"]: r["frechet"] for r in t.rows if key.items() <= r.items()}

    found = [(name, cells(key), shown) for name, key, shown in FRONTIER]
    empty = [name for name, scores, _ in found if not scores]
    if empty:
        raise LookupError(f"frontier: no rows of {', '.join(empty)}")
    students = {r["calls"]: r["frechet"] for r in t.rows if r["model"] != model}
    lines = found + ([("students, each in its own steps", students, True)] if students else [])

    # heun's calls are odd.
    value = lambda scores, calls: scores.get(calls) or scores.get(calls - 1)
    table = grid("calls", [(name, scores) for name, scores, _ in lines], columns, value, min)
    table = table.replace("S = ", "")

    times = call_times(folder.parent).values()
    ms = statistics.median(times)
    plotted = [
        (name.replace("`", ""), sorted(scores), [scores[x] for x in sorted(scores)], "none" if scores is students else "-")
        for name, scores, shown in lines
        if shown
    ]
    ticks = ([1, 2] if students else []) + columns
    plot = curves("frontier.png", "network calls", plotted, t.rows[0]["frechet_floor"], ticks, ms)
    note = (
        "\n\n(`heun` and `dpm2` make an odd number of calls: one less than the column says. A call takes "
        f"{min(times):.2f} to {max(times):.2f} ms for an image, by solver, with two threads and batches of 16.)"
    )
    return {"frontier": table + note + "\n\n" + t.provenance()}, [t.csv(), plot]


# Rows of the leaders' table: name and how its cells are found.
LEADERS = [
    ("`ddim`", {"solver": "ddim"}),
    ("`heun`", {"solver": "heun"}),
    ("`dpm++2m`", {"solver": "dpm++2m"}),
    ("`dpm++3m`", {"solver": "dpm++3m"}),
    ("`unipc`", {"solver": "unipc"}),
    ("`unipc3`", {"solver": "unipc3"}),
    ("`deis2`", {"solver": "deis2"}),
    ("`deis`", {"solver": "deis"}),
    ("`sa`", {"solver": "sa"}),
    ("`deis`, fitted τ", {"solver": "deis", "spacing": "fitted"}),
    ("`deis`, restarted from 66 to 400", {"solver": "deis", "restart": [66, 400, 1]}),
]


def beyond(folder):
    """The leaders with more images, and what either half of these says."""
    t = Table(folder)
    n = max(r["n"] for r in t.rows)

    def scores(key, calls):
        wanted = {"spacing": "linear", "restart": None, **key}
        is_one = lambda r: all(r.get(name) == value for name, value in wanted.items())
        # heun's calls are odd.
        found = [r for r in t.rows if is_one(r) and r["calls"] in (calls - 1, calls)]
        return in_halves(found, n) if found else "–"

    columns = [6, 10, 20, 50]
    rows = [[name] + [scores(key, calls) for calls in columns] for name, key in LEADERS]
    table = markdown([""] + [f"{calls} calls" for calls in columns], rows)
    whole = next(r for r in t.rows if r["n"] == n)
    floor = f"(n = {n:,}; in brackets both halves apart. Floor: {whole['frechet_floor']:.3f}; other options as above. `heun` makes one call less.)"
    return {"beyond": table + "\n\n" + floor}, [t.csv()]


def restart(folder):
    t = Table(folder)
    rows = []
    for r in t.rows:
        low, high, repeats = r["restart"]
        steps = f"`{r['solver']}`, S = {r['steps']}"
        rows.append([steps, f"{low} to {high}, {repeats} ×", str(r["calls"]), number(r["frechet"]), f"{r['precision']:.3f}", f"{r['recall']:.3f}"])
    table = markdown(["", "restart", "calls", "Fréchet", "precision", "recall"], rows)
    return {"restart": table + "\n\n" + t.provenance()}, [t.csv()]


def guided(folder):
    t = Table(folder)
    rows = []
    for r in sorted(t.rows, key=lambda r: (r["guidance"] or 0, r["calls"])):
        weight, interval = r["guidance"], r["guidance_interval"]
        name = "none" if weight is None else f"{weight:g}"
        if interval:
            name += f", {interval[0]:g} < σ_ve ≤ {interval[1]:g}"
        rows.append([name, str(r["calls"]), number(r["frechet"]), f"{r['precision']:.3f}", f"{r['recall']:.3f}"])
    return {"guided": markdown(["guidance", "calls", "Fréchet", "precision", "recall"], rows) + "\n\n" + t.provenance()}, [t.csv()]


def student(folder):
    t = Table(folder)
    n = max(r["n"] for r in t.rows)
    rows = []
    for model in t.models():
        own = [r for r in t.rows if r["model"] == model]
        score, whole = in_halves(own, n), max(own, key=lambda r: r["n"])
        others = [f"{whole[key]:.{digits}f}" for key, digits in (("precision", 3), ("recall", 3), ("memorisation", 2))]
        rows.append([str(whole["calls"]), score, *others, model[:12]])
    rows.sort(key=lambda row: -int(row[0]))
    provenance = f"(n = {n:,}; in brackets both halves apart. Floor: {whole['frechet_floor']:.3f}; other options as above.)"
    return {"student": markdown(["calls", "Fréchet", "precision", "recall", "memorisation", "student"], rows) + "\n\n" + provenance}, [t.csv()]


def table2(folder):
    paper = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}

    def errors(of, steps):
        rows = list(csv.DictReader(io.StringIO((of / "table.csv").read_text())))
        if [int(r["steps"]) for r in rows] != steps:
            raise LookupError(f"{of.name}: not all steps")
        return [f"{float(r['mse']):.2g}" for r in rows] + ["–"] * (len(paper) - len(rows)), int(rows[0]["n"])

    few, many = folder, folder.parent / "table2-many"
    lines = []
    for of, steps in ((few, list(paper)), (many, list(paper)[:4])):
        found, n = errors(of, steps)
        lines.append([f"{n:,} images"] + found)
    lines.append(["paper, CIFAR-10"] + [f"{value:g}" for value in paper.values()])
    files = [(TABLES / f"{of.name}.csv", (of / "table.csv").read_bytes()) for of in (few, many)]
    files += [(IMAGES / to, (few / name).read_bytes()) for name, to in (("error.png", "table2.png"), ("images.png", "table2-images.png"))]
    return {"table2": markdown([""] + [f"S = {s}" for s in paper], lines)}, files


def main():
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs/results"
    page = PAGE.read_text()
    for part in (table1, consistency, pictures, spread, noise, thousand, weaker, choices, calibrated, half, table2, student, frontier, beyond, restart, guided):
        try:
            made, files = part(results / part.__name__)
        except (FileNotFoundError, LookupError) as missing:
            print(f"{part.__name__}: left as it is ({missing})")
            continue
        for name, text in made.items():
            block = re.compile(rf"(<!-- made: {name} -->\n).*?(<!-- /made -->)", re.S)
            if not block.search(page):
                sys.exit(f"{PAGE}: no block {name}")
            page = block.sub(lambda m: m.group(1) + text + "\n" + m.group(2), page)
        # Only now: a part that lacks a cell leaves everything as it was.
        for path, data in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        print(f"{part.__name__}: made")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
