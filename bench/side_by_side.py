"""Compares skipstone with its peers, interleaved on this machine.

    python bench/side_by_side.py --what calls|training|program|memory|avx2|all [--rounds 7] [--out FILE.json]

Prints Markdown tables on stdout and progress on stderr; --out also writes every round as JSON. bench/README.md explains what
a fair comparison needs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contest
import report
from runners import HERE, Peer, Setup, Skipstone, Unavailable, Work, environment, start, whole

WHAT = ("calls", "training", "program", "memory", "avx2", "all")


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen(args: argparse.Namespace) -> list[str]:
    """The selected contestants."""
    keys = args.contestants or [key for key, contestant in contest.CONTESTANTS.items() if not contestant.extra]
    wanted = {"peers": False, "skipstone": True}.get(args.only)
    return [key for key in keys if wanted is None or contest.CONTESTANTS[key].ours == wanted]


def prepare(args: argparse.Namespace, network: str, onnx: list[int]) -> str | None:
    """Makes the network's files in a separate process; returns what went wrong with the ONNX files, or None."""
    command = [sys.executable, str(HERE / "networks.py"), "--work", str(args.work), "--networks", network]
    subprocess.run(command, check=True, stdout=sys.stderr)
    if not onnx or all(contest.onnx(args.work, network, batch).exists() for batch in onnx):
        return None
    progress(f"{network}: exporting to ONNX")
    done = subprocess.run(command + ["--onnx", ",".join(map(str, onnx))], capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def enter(setup: Setup, keys: list[str], work: Work) -> tuple[dict[str, Peer | Skipstone], dict[str, str]]:
    """Starts the contestants one after the other; returns them, and the reason for each that cannot take part."""
    ready, skipped = {}, {}
    for key in keys:
        try:
            ready[key] = start(setup, key, work)
        except Unavailable as problem:
            skipped[contest.CONTESTANTS[key].title] = str(problem)
            progress(f"  {key}: left out: {problem}")
        else:
            progress(f"  {key}: {ready[key].facts['warm_ms']:.1f} ms when warm")
    return ready, skipped


def rounds(args: argparse.Namespace, ready: dict[str, Peer | Skipstone], skipped: dict[str, str]) -> dict[str, list]:
    """Runs all contestants in turn, each round starting with a different one; a contestant that fails is dropped."""
    fastest = min((runner.facts["warm_ms"] for runner in ready.values()), default=1.0)
    calls = args.calls or min(max(math.ceil(args.seconds * 1e3 / fastest), 3), 200)
    results: dict[str, list] = {key: [] for key in ready}
    for number in range(args.rounds):
        order = list(results)
        turn = number % max(len(order), 1)
        for key in order[turn:] + order[:turn]:
            # Threads of the previous contestant may spin for a while after their work.
            time.sleep(args.pause)
            try:
                results[key].append(ready[key].round(calls))
            except Unavailable as problem:
                skipped[contest.CONTESTANTS[key].title] = f"in round {number + 1}: {problem}"
                del results[key]
        progress(f"  round {number + 1} of {args.rounds}, {calls} calls each")
    return results


def row(key: str, runner: Peer | Skipstone, done: list) -> dict[str, Any]:
    """A contestant's row in the report."""
    busy = [one.cpu for one in done if one.cpu is not None]
    return {"contestant": key, **runner.facts, **done[-1].facts, "values": [one.ms for one in done],
            "cpu": sum(busy) / len(busy) if busy else None}


def compare(args: argparse.Namespace, setup: Setup, what: str, work: Work, keys: list[str]) -> dict[str, Any]:
    """Measures one cell: a network at a batch."""
    progress(f"{what}: {work.network}, batch {work.batch}")
    ready, skipped = enter(setup, keys, work)
    try:
        results = rounds(args, ready, skipped)
    finally:
        for runner in ready.values():
            runner.close()
    facts = json.loads(contest.reference(setup.work, work.network).with_suffix(".json").read_text(encoding="utf-8"))
    # A training step is about the work of three calls; no GFLOP/s is given for it.
    gflop = None if work.training else facts["gflop_per_image"] * work.batch
    cell = {"what": what, "network": work.network, "batch": work.batch, "gflop": gflop, "skipped": skipped,
            "rows": [row(key, ready[key], done) for key, done in results.items()]}
    cell["ratios"] = report.ratios(cell)
    return cell


def timings(args: argparse.Namespace, setup: Setup, what: str, emit: Callable[[dict[str, Any], str], None]) -> None:
    """Measures calls, calls on AVX2, or training steps, for all networks at all their batches."""
    keys = [key for key in chosen(args) if what != "training" or contest.CONTESTANTS[key].trains]
    if what == "training" and not args.contestants:
        # Compiling a training step takes many minutes, so it runs only if named.
        keys = [key for key in keys if key not in ("pytorch-compile", "skipstone-f16")]
    for name in args.networks:
        network = contest.NETWORKS[name]
        batches = args.batches or ((network.training_batch,) if what == "training" else network.batches)
        exported = sorted(batches) if {"onnxruntime", "openvino", "openvino-bf16"} & set(keys) else []
        problem = prepare(args, name, exported)
        if problem:
            progress(f"{name}: no ONNX file: {problem}")
        for batch in batches:
            cell = compare(args, setup, what, Work(name, batch, what == "training", what == "avx2"), keys)
            emit(cell, report.cell_table(cell))


def programs(args: argparse.Namespace, setup: Setup, network: str, images: int) -> dict[str, tuple[str, list[str]]]:
    """The title and command of each whole program."""
    folder, out = contest.folder(setup.work, network), setup.work / "out"
    out.mkdir(exist_ok=True)
    commands = {"diffusers": ("diffusers DDIMPipeline", [
        sys.executable, str(HERE / "pipeline.py"), str(folder), str(images), str(args.steps),
        str(out / "diffusers.png"), str(setup.threads),
    ])}
    for key in ("skipstone", "skipstone-f16"):
        contestant = contest.CONTESTANTS[key]
        commands[key] = (contestant.title, [
            str(setup.skipstone), "sample", "--model", str(folder), "-n", str(images), "--steps", str(args.steps),
            "--threads", str(setup.threads), "-o", str(out / f"{key}.png"), *contestant.arguments,
        ])
    wanted = chosen(args)
    return {key: value for key, value in commands.items()
            if key in wanted or (key == "diffusers" and args.only != "skipstone")}


def race(args: argparse.Namespace, setup: Setup, network: str, images: int) -> dict[str, Any]:
    """Runs whole programs in turn. The first run of each is not counted, because it loads the files into memory."""
    progress(f"program: {network}, {images} image(s) × {args.steps} steps")
    commands = programs(args, setup, network, images)
    env = environment(setup, contest.CONTESTANTS["skipstone"], avx2=False)
    rows = {key: {"contestant": key, "title": title, "values": [], "memory_mb": []}
            for key, (title, _) in commands.items()}
    skipped: dict[str, str] = {}
    for number in range(-1, args.rounds):
        for key in list(rows):
            time.sleep(args.pause)
            try:
                seconds, memory = whole(commands[key][1], env, setup.work / "logs" / f"program-{key}.log")
            except Unavailable as problem:
                skipped[rows.pop(key)["title"]] = str(problem)
                progress(f"  {key}: left out: {problem}")
                continue
            if number >= 0:
                rows[key]["values"].append(seconds)
                rows[key]["memory_mb"].append(memory)
        progress(f"  round {number + 1} of {args.rounds}")
    return {"what": "program", "network": network, "images": images, "steps": args.steps, "skipped": skipped,
            "rows": list(rows.values())}


def whole_programs(args: argparse.Namespace, setup: Setup, emit: Callable[[dict[str, Any], str], None]) -> None:
    """Measures time and peak memory in the same runs."""
    (setup.work / "logs").mkdir(parents=True, exist_ok=True)
    for name in args.networks:
        prepare(args, name, [])
        for images in args.batches or contest.NETWORKS[name].program:
            cell = race(args, setup, name, images)
            emit(cell, report.program_table(cell))


def listed(known: dict[str, Any]) -> Callable[[str], list[str]]:
    """A parser for a comma-separated choice among known names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}: expected some of {', '.join(known)}")
        return names

    return parse


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=WHAT, required=True, help="memory is measured with program, in one go")
    parser.add_argument("--networks", type=listed(contest.NETWORKS), default=contest.USUAL, metavar="A,B")
    parser.add_argument("--batches", type=lambda text: [int(word) for word in text.split(",")], metavar="N,M",
                        help="instead of each network's own; images, for whole programs")
    parser.add_argument("--contestants", type=listed(contest.CONTESTANTS), metavar="A,B",
                        help=f"some of {', '.join(contest.CONTESTANTS)}")
    parser.add_argument("--only", choices=("peers", "skipstone"))
    parser.add_argument("--skipstone", type=Path, default=contest.ROOT / "target" / "release" / "skipstone")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, help="timed calls a round [default: what --seconds gives the fastest]")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of the fastest contestant's rounds")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between contestants")
    parser.add_argument("--steps", type=int, default=20, help="steps of the whole programs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpus", type=lambda text: {int(word) for word in text.split(",")}, metavar="0,1",
                        help="keep everything to these processors")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds to wait for a contestant")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="where models are kept between runs")
    parser.add_argument("--out", type=Path, help="JSON file with every round")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: expected at least 1")
    args.work, args.skipstone = args.work.resolve(), args.skipstone.resolve()
    return args


def keep(path: Path | None, record: dict[str, Any]) -> None:
    """Writes the record. It is called after each cell, so that an interrupted comparison keeps its results."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def main() -> int:
    args = arguments()
    if args.cpus:
        os.sched_setaffinity(0, args.cpus)
    setup = Setup(args.work, args.skipstone, args.threads, args.patience)
    origin = report.provenance(setup.skipstone, setup.threads)
    if origin["load_average_at_start"][0] > 0.3:
        progress(f"the machine is not quiet: load average {origin['load_average_at_start'][0]}")
    record = {"provenance": origin, "settings": {"rounds": args.rounds, "calls": args.calls, "seconds": args.seconds,
                                                 "pause": args.pause, "time_index": contest.TIME}, "cells": []}

    def emit(cell: dict[str, Any], text: str) -> None:
        record["cells"].append(cell)
        record["provenance"]["load_average_at_end"] = [round(load, 2) for load in os.getloadavg()]
        print(text, flush=True)
        keep(args.out, record)

    parts = ("calls", "training", "program", "avx2") if args.what == "all" else (args.what,)
    for part in parts:
        if part in ("program", "memory"):
            whole_programs(args, setup, emit)
        else:
            timings(args, setup, part, emit)
    print(report.summary(record["cells"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
