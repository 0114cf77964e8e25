"""The processes: peers live through all rounds, skipstone starts in each, and the kernel measures whole programs.

Standard library only: a child's peak memory includes its parent's if the parent is larger."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import contest

HERE = Path(__file__).resolve().parent


class Unavailable(Exception):
    """A contestant cannot take part; the message says why."""


@dataclass(frozen=True)
class Work:
    """One cell of the comparison."""

    network: str
    batch: int
    training: bool
    avx2: bool


@dataclass(frozen=True)
class Setup:
    """Settings of the whole comparison."""

    work: Path
    skipstone: Path
    threads: int
    # Seconds to wait for a contestant to get ready (compilers take minutes) or to finish a round.
    patience: float


@dataclass
class Round:
    """A contestant's round: its median in ms and, if known, how many cores it kept busy."""

    ms: float
    cpu: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def environment(setup: Setup, contestant: contest.Contestant, avx2: bool) -> dict[str, str]:
    """The child's environment: the same number of threads for all, and the compiler's cache beside the models."""
    threads = str(setup.threads)
    limits = contestant.avx2 if avx2 else {}
    return {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(setup.work / "inductor"), **(limits or {})}


class Peer:
    """peers.py in its own process."""

    def __init__(self, setup: Setup, contestant: contest.Contestant, work: Work) -> None:
        self.patience = setup.patience
        command = [sys.executable, str(HERE / "peers.py"), "--peer", contestant.key, "--network", work.network,
                   "--batch", str(work.batch), "--threads", str(setup.threads), "--work", str(setup.work)]
        logs = setup.work / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with open(logs / f"{contestant.key}-{work.network}-{work.batch}.log", "wb") as log:
            self.process = subprocess.Popen(
                command + ["--training"] * work.training, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                bufsize=0, env=environment(setup, contestant, work.avx2),
            )
        self.facts = self._ready()

    def _ready(self) -> dict[str, Any]:
        try:
            line = self._line()
        except Unavailable:
            self.close()
            raise
        if "skip" in line:
            self.close()
            raise Unavailable(line["skip"])
        return line

    def _line(self) -> dict[str, Any]:
        ready, _, _ = select.select([self.process.stdout], [], [], self.patience)
        if not ready:
            raise Unavailable(f"silent for {self.patience:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable("ended early; its log says why")
        return json.loads(line)

    def round(self, calls: int) -> Round:
        try:
            self.process.stdin.write(f"run {calls}\n".encode())
        except BrokenPipeError:
            raise Unavailable("ended early; its log says why") from None
        answer = self._line()
        return Round(median(answer["ms"]), answer["cpu"], {"peak_rss_mb": answer["peak_rss_mb"]})

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Skipstone:
    """skipstone, one process per round: `skipstone bench` warms up by itself and reports the median of its calls."""

    def __init__(self, setup: Setup, contestant: contest.Contestant, work: Work) -> None:
        self.setup, self.contestant, self.work = setup, contestant, work
        if not setup.skipstone.is_file():
            raise Unavailable(f"{setup.skipstone.name} is not there: cargo build --release, or --skipstone PATH")
        first = self.round(1)
        self.facts = {"warm_ms": first.ms, **first.facts}
        if work.avx2 and "avx2" not in str(self.facts.get("isa")).lower().replace("-", ""):
            raise Unavailable(f"asked for AVX2 it ran {self.facts.get('isa')}")
        if not work.training:
            self.facts["error"] = self._error()

    def _command(self, calls: int) -> list[str]:
        folder = contest.folder(self.setup.work, self.work.network)
        command = [str(self.setup.skipstone), "bench", "--model", str(folder), "--batch", str(self.work.batch),
                   "--threads", str(self.setup.threads), "--calls", str(calls), "--json"]
        return command + ["--train"] * self.work.training + list(self.contestant.arguments)

    def _run(self, command: list[str]) -> str:
        env = environment(self.setup, self.contestant, self.work.avx2)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.setup.patience, env=env)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"not done in {self.setup.patience:.0f} s") from None
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["nothing said"]
            raise Unavailable(f"exit code {done.returncode}: {said[0]}")
        return done.stdout

    def round(self, calls: int) -> Round:
        lines = [json.loads(line) for line in self._run(self._command(calls)).splitlines() if line.startswith("{")]
        line = next((line for line in lines if line.get("batch") == self.work.batch), None)
        if line is None:
            raise Unavailable(f"skipstone bench printed no line for batch {self.work.batch}")
        return Round(line["ms_per_call"], None, {key: line.get(key) for key in ("isa", "threads", "peak_rss_mb")})

    def _error(self) -> float | None:
        """The error against the exact output; None (and a note on stderr) if it cannot be measured."""
        setup = self.setup
        command = [sys.executable, str(HERE / "accuracy.py"), "--skipstone", str(setup.skipstone), "--network",
                   self.work.network, "--threads", str(setup.threads), "--work", str(setup.work)]
        try:
            return json.loads(self._run(command + list(self.contestant.arguments)))["error"]
        except Unavailable as problem:
            print(f"{self.contestant.key}: no error measured: {problem}", file=sys.stderr)
            return None

    def close(self) -> None:
        """Nothing lives between rounds."""


def start(setup: Setup, key: str, work: Work) -> Peer | Skipstone:
    """Starts and warms a contestant; raises `Unavailable` if it cannot take part."""
    contestant = contest.CONTESTANTS[key]
    if work.training and not contestant.trains:
        raise Unavailable("does not train")
    if work.avx2 and contestant.avx2 is None:
        raise Unavailable("has no switch that keeps it to AVX2")
    return (Skipstone if contestant.ours else Peer)(setup, contestant, work)


def whole(command: list[str], env: dict[str, str], log: Path) -> tuple[float, float]:
    """The seconds and peak MB of a program from start to end, as the kernel counts them.

    The program runs under a shell: a child's peak starts at its parent's size, and a shell is small.
    """
    shell = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command]
    with open(log, "wb") as out:
        begin = time.perf_counter()
        process = subprocess.Popen(shell, stdout=out, stderr=subprocess.STDOUT, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing said"]
        why = next((line for line in said if line.startswith("error")), said[-1])
        raise Unavailable(f"exit code {process.returncode}: {why}")
    return seconds, usage.ru_maxrss / 1024
