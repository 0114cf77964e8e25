"""Runs one peer in its own process. side_by_side.py starts it; it also works by hand:

    python bench/peers.py --peer openvino --network cifar --batch 16 --threads 2 --work bench/.work

It loads the network, warms up and prints a JSON line, {"ready": …} or {"skip": "why"}. For each line `run K` on stdin it
makes one untimed call (others ran in between, so caches are cold and threads asleep) and K timed calls, and answers
{"ms": [K numbers], "cpu": processor time ÷ wall time}.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import contest

WARM_UP = 3


@dataclass
class Loaded:
    """A peer ready to run: a call, its output, and facts about the peer."""

    call: Callable[[], Any]
    # Output as [n, channels, height, width]; None if there is nothing to check (training).
    output: Callable[[], np.ndarray] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """The work to do."""

    network: str
    batch: int
    threads: int
    work: Path
    training: bool

    @property
    def folder(self) -> Path:
        return contest.folder(self.work, self.network)

    @property
    def onnx(self) -> Path:
        return contest.onnx(self.work, self.network, self.batch)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """x [batch, c, h, w] and t [batch]."""
        arrays = np.load(contest.reference(self.work, self.network))
        return arrays["x"][: self.batch], arrays["t"][: self.batch]


def torch_model(task: Task, channels_last: bool) -> tuple[Any, Any, Any]:
    """The network and its two inputs, in PyTorch."""
    import torch

    from networks import load

    torch.set_num_threads(task.threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, t = (torch.from_numpy(array) for array in task.data())
    return load(task.folder).to(memory_format=layout), x.to(memory_format=layout), t


def torch_facts() -> dict[str, Any]:
    import torch

    return {"isa": torch.backends.cpu.get_cpu_capability()}


def autocast(bf16: bool) -> Any:
    """Products in bf16, if wanted, by PyTorch's own choice of operations."""
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def eager(task: Task, channels_last: bool, bf16: bool = False) -> Loaded:
    import torch

    model, x, t = torch_model(task, channels_last)

    def call() -> Any:
        with torch.inference_mode(), autocast(bf16):
            return model(x, t, return_dict=False)[0]

    return Loaded(call, lambda: call().float().numpy(), torch_facts())


def compiled(task: Task, bf16: bool = False) -> Loaded:
    import torch
    from torch._inductor import config

    # With constant weights, oneDNN chooses their layout and packs them before the calls.
    config.freezing = True
    model, x, t = torch_model(task, channels_last=False)
    model = torch.compile(model)

    def call() -> Any:
        with torch.no_grad(), autocast(bf16):
            return model(x, t, return_dict=False)[0]

    start = time.perf_counter()
    call()
    return Loaded(call, lambda: call().float().numpy(), {**torch_facts(), "compile_s": time.perf_counter() - start})


def training(task: Task, channels_last: bool, compile_it: bool, bf16: bool = False) -> Loaded:
    """Forward, mean squared error, backward, Adam."""
    import torch

    model, x, t = torch_model(task, channels_last)
    model = model.train()
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    # One fused pass over each parameter; the default update makes several.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if compile_it else model

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(bf16):
            y = forward(x, t, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(y.float(), target)
        loss.backward()
        optimizer.step()

    return Loaded(call, None, torch_facts())


def onnxruntime(task: Task) -> Loaded:
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = runtime.InferenceSession(str(task.onnx), options, providers=["CPUExecutionProvider"])
    feed = dict(zip(("x", "t"), task.data(), strict=True))

    def call() -> np.ndarray:
        return session.run(None, feed)[0]

    return Loaded(call, call)


def openvino(task: Task, from_torch: bool, precision: str = "f32") -> Loaded:
    import openvino

    core = openvino.Core()
    model = openvino_from_torch(task) if from_torch else core.read_model(task.onnx)
    ready = core.compile_model(model, "CPU", {
        "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": task.threads, "PERFORMANCE_HINT": "LATENCY",
    })
    request = ready.create_infer_request()
    feed = dict(enumerate(task.data()))

    def call() -> np.ndarray:
        return next(iter(request.infer(feed, share_inputs=True, share_outputs=True).values()))

    return Loaded(call, lambda: call().copy(), {"convolutions": convolutions(ready)})


def openvino_from_torch(task: Task) -> Any:
    """OpenVINO's direct conversion of the PyTorch network, which keeps operations that ONNX splits."""
    import openvino
    import torch

    from networks import Plain, load

    x, t = (torch.from_numpy(array) for array in task.data())
    model = openvino.convert_model(Plain(load(task.folder)).eval(), example_input=(x, t))
    model.reshape({0: list(x.shape), 1: list(t.shape)})
    return model


def convolutions(compiled_model: Any) -> dict[str, int]:
    """The kernels OpenVINO chose for the convolutions, which show the instruction set in use."""
    kinds = Counter()
    for node in compiled_model.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) == "Convolution":
            kinds[info["primitiveType"].astype(str)] += 1
    return dict(kinds)


PEERS: dict[str, Callable[[Task], Loaded]] = {
    "pytorch": lambda task: training(task, False, False) if task.training else eager(task, False),
    "pytorch-channels-last": lambda task: training(task, True, False) if task.training else eager(task, True),
    "pytorch-compile": lambda task: training(task, False, True) if task.training else compiled(task),
    "pytorch-bf16": lambda task: training(task, True, False, True) if task.training else eager(task, True, True),
    "pytorch-compile-bf16": lambda task: training(task, False, True, True) if task.training else compiled(task, True),
    "onnxruntime": onnxruntime,
    "openvino": lambda task: openvino(task, from_torch=False),
    "openvino-bf16": lambda task: openvino(task, from_torch=False, precision="bf16"),
    "openvino-torch": lambda task: openvino(task, from_torch=True),
}


def timed(call: Callable[[], Any]) -> float:
    """The milliseconds of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def error(task: Task, y: np.ndarray) -> float:
    """‖y − exact‖₂ ÷ ‖exact‖₂ over the images whose exact output is known."""
    arrays = np.load(contest.reference(task.work, task.network))
    channels = arrays["x"].shape[1]
    exact = arrays["y"][: task.batch, :channels]
    return float(np.linalg.norm(y[: len(exact), :channels] - exact) / np.linalg.norm(exact))


def peak_mb() -> float:
    """The peak resident memory of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare(peer: str, task: Task) -> tuple[Loaded, dict[str, Any]]:
    """The warm peer and its ready line."""
    loaded = PEERS[peer](task)
    warm = min(timed(loaded.call) for _ in range(WARM_UP))
    ready = {"ready": True, "warm_ms": warm, "peak_rss_mb": peak_mb(), **loaded.facts}
    if loaded.output is not None:
        ready["error"] = error(task, loaded.output())
    return loaded, ready


def answer(loaded: Loaded, calls: int) -> dict[str, Any]:
    """Runs one round."""
    loaded.call()
    wall, cpu = time.perf_counter(), time.process_time()
    times = [timed(loaded.call) for _ in range(calls)]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"ms": times, "cpu": cpu / wall, "peak_rss_mb": peak_mb()}


def protocol() -> TextIO:
    """Reserves standard output for our lines; whatever libraries print goes to stderr."""
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return ours


def say(out: TextIO, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=out, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--network", choices=contest.NETWORKS, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--training", action="store_true")
    args = parser.parse_args()
    out = protocol()
    task = Task(args.network, args.batch, args.threads, args.work, args.training)
    try:
        loaded, ready = prepare(args.peer, task)
    except Exception as problem:  # a peer that fails for any reason is left out of the table
        said = str(problem).strip().splitlines() or ["nothing said"]
        say(out, {"skip": f"{type(problem).__name__}: {said[0]}"})
        raise
    say(out, ready)
    for line in sys.stdin:
        word, _, calls = line.partition(" ")
        if word.strip() != "run":
            break
        say(out, answer(loaded, int(calls)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
