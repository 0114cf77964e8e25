"""Ratios, tables and the provenance of the numbers. Standard library only."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import contest

PACKAGES = ("torch", "diffusers", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "safetensors", "pillow")
INSTRUCTIONS = ("avx", "f16c", "fma", "amx")


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median and range over the rounds."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratio(peer: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """peer ÷ ours within each round, because a disturbed round slows both."""
    return spread([p / o for p, o in zip(peer, ours, strict=True)])


def span(values: dict[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}–{values['max']:.{digits}f})"


def best(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The row with the lowest median."""
    return min(rows, key=lambda row: median(row["values"]), default=None)


def families(rows: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The peers to compare with: the best of all, OpenVINO, and the best of PyTorch."""
    peers = [row for row in rows if not contest.CONTESTANTS[row["contestant"]].ours]
    wanted = [("best peer", best(peers))]
    for family, name in (("openvino", "OpenVINO"), ("pytorch", "best of PyTorch")):
        found = best(row for row in peers if contest.CONTESTANTS[row["contestant"]].family == family)
        wanted.append((name, found))
    return [(name, row) for name, row in wanted if row is not None]


def ratios(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """The ratios of one cell: each peer group ÷ each of ours."""
    ours = [row for row in cell["rows"] if contest.CONTESTANTS[row["contestant"]].ours]
    return [
        {"peer": name, "contestant": peer["contestant"], "ours": us["contestant"],
         **ratio(peer["values"], us["values"])}
        for us in ours
        for name, peer in families(cell["rows"])
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def row_of_call(cell: dict[str, Any], row: dict[str, Any]) -> list[str]:
    middle = spread(row["values"])
    gflops = cell["gflop"] / middle["median"] * 1e3 if cell["gflop"] else None
    base = next((r for r in cell["rows"] if r["contestant"] == "skipstone"), None)
    relative = span(ratio(row["values"], base["values"]), 2) if base else "–"
    return [contest.CONTESTANTS[row["contestant"]].title, span(middle, 1), number(gflops, ".0f"), relative,
            number(row.get("error"), ".1e"), number(row.get("cpu"), ".2f"), number(row.get("peak_rss_mb"), ".0f")]


def cell_table(cell: dict[str, Any]) -> str:
    """The table of one network at one batch."""
    head = ("contestant", "ms, median (range)", "GFLOP/s", "÷ skipstone f32", "error", "cores busy", "peak MB")
    rows = sorted(cell["rows"], key=lambda row: median(row["values"]))
    title = f"### {cell['what']}: {contest.NETWORKS[cell['network']].title}, batch {cell['batch']}"
    notes = [f"- left out: {name}: {why}" for name, why in cell["skipped"].items()]
    return "\n".join([title, "", table(head, [row_of_call(cell, row) for row in rows]), "", *notes])


def program_table(cell: dict[str, Any]) -> str:
    """The table of whole programs, for one network and number of images."""
    head = ("program", "seconds, median (range)", "÷ skipstone f32", "peak MB, median (range)", "÷ skipstone f32")
    base = next((row for row in cell["rows"] if row["contestant"] == "skipstone"), None)
    lines = [
        [row["title"], span(spread(row["values"]), 2),
         span(ratio(row["values"], base["values"]), 2) if base else "–",
         span(spread(row["memory_mb"]), 0), span(ratio(row["memory_mb"], base["memory_mb"]), 2) if base else "–"]
        for row in cell["rows"]
    ]
    title = f"### program: {contest.NETWORKS[cell['network']].title}, {cell['images']} image(s) × {cell['steps']} steps"
    notes = [f"- left out: {name}: {why}" for name, why in cell["skipped"].items()]
    return "\n".join([title, "", table(head, lines), "", *notes])


def summary(cells: Sequence[dict[str, Any]]) -> str:
    """All ratios in one table."""
    rows = [
        [f"{cell['what']} {cell['network']} {cell['batch']}",
         f"{entry['peer']} ({contest.CONTESTANTS[entry['contestant']].title})",
         contest.CONTESTANTS[entry["ours"]].title, span(entry, 2)]
        for cell in cells
        for entry in cell.get("ratios", ())
    ]
    return "" if not rows else "### Ratios\n\n" + table(("work", "peer", "ours", "peer ÷ ours (range)"), rows) + "\n"


def first_line(command: Sequence[str]) -> str | None:
    """The first line of a command's output; None if it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=contest.ROOT)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.splitlines() or [""])[0].strip()


def cpu() -> dict[str, Any]:
    """Processor model and the relevant instruction sets, if /proc has them."""
    fields: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = [flag for flag in fields.get("flags", "").split() if flag.startswith(INSTRUCTIONS)]
    numbers = {key: fields.get(key) for key in ("cpu family", "model", "stepping", "cpu MHz", "cache size")}
    return {"model_name": fields.get("model name", platform.processor()), "instructions": flags, **numbers}


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def provenance(skipstone: Path, threads: int) -> dict[str, Any]:
    """Machine, versions, commit and load: enough to judge the numbers, but no name or path of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu(), "cores": len(os.sched_getaffinity(0)), "threads": threads, "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(), "packages": {name: version(name) for name in PACKAGES},
        "compiler": first_line(["g++", "--version"]), "skipstone": first_line([str(skipstone), "--version"]),
        "commit": first_line(["git", "rev-parse", "HEAD"]),
        "uncommitted_changes": bool(first_line(["git", "status", "--porcelain", "--untracked-files=no"])),
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
    }
