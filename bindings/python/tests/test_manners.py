"""Interrupts, exceptions, threads, processes, memory."""

import gc
import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import skipstone as ss

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and forks")


class Mine(Exception):
    pass


@pytest.mark.parametrize("at", range(1, 11))
def test_an_exception_of_a_callback_arrives_as_itself_from_any_step(model, at):
    raised = Mine(at)

    def callback(step):
        if step.first * 5 + step.step == at:
            raise raised

    with pytest.raises(Mine) as caught:
        model.sample(2, steps=5, batch=1, callback=callback)
    assert caught.value is raised
    assert "callback" in [frame.name for frame in caught.traceback]
    del caught
    model.sample(1, steps=2)  # and all is as before


@pytest.mark.parametrize("solver", ["ddim", "heun", "ab2", "dpm++2m"])
def test_an_exception_of_a_denoiser_arrives_as_itself(solver):
    def f(x, t):
        if t < 500:
            raise Mine("here")
        return x

    sampler = ss.Sampler(ss.Denoiser(f, (1, 2, 2), vjp=lambda x, t, c: f(x, t)))
    x = np.zeros((2, 1, 2, 2), np.float32)
    for run in (
        lambda: sampler.sample(2, solver=solver),
        lambda: sampler.encode(x),
        lambda: sampler.encode(x, method="edict"),
        lambda: sampler.likelihood(x, method="ode"),
        lambda: sampler.likelihood(x),
        lambda: sampler.calibrate(x),
        lambda: sampler.inpaint(x[0], np.eye(2)),
        lambda: list(sampler.trajectory(solver=solver)),
    ):
        with pytest.raises(Mine, match="here"):
            run()
    with pytest.raises(ZeroDivisionError):
        ss.Sampler(ss.Denoiser(lambda x, t: 1 / 0, (1, 2, 2))).sample()


def test_control_c_stops_within_one_network_call():
    """Between two calls, also within one step of a solver that makes two."""
    program = textwrap.dedent("""
        import os, signal, sys, threading, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where no terminal is
        import skipstone as ss
        calls = []
        def f(x, t):
            calls.append(time.monotonic())
            if len(calls) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return x
        try:
            ss.Sampler(ss.Denoiser(f, (1, 2, 2))).sample(steps=50, solver="heun")
        except KeyboardInterrupt:
            print(len(calls))
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert int(done.stdout) <= 5, done.stderr


@linux
@pytest.mark.parametrize("run", ["model.sample(64, steps=1000)", "model.encode(x, steps=1000)", "model.likelihood(x, steps=1000)",
                                 "model.likelihood(x, steps=1000, method='ode')", "model.calibrate(x)"])
def test_control_c_stops_the_built_in_engine(run):
    program = textwrap.dedent(f"""
        import os, signal, threading, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where no terminal is
        import numpy as np, skipstone as ss
        model, x = ss.load(), np.zeros((16, 1, 28, 28), np.float32)
        def interrupt():
            time.sleep(1.5); sent.append(time.monotonic()); os.kill(os.getpid(), signal.SIGINT)
        sent = []
        threading.Thread(target=interrupt).start()
        try:
            {run}
            print("finished")
        except KeyboardInterrupt:
            print(time.monotonic() - sent[0])
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert float(done.stdout) < 10, done.stderr  # a network call of this model takes a fraction of that


def test_the_lock_is_released(model):
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.005)

    thread = threading.Thread(target=tick)
    thread.start()
    begun = time.monotonic()
    model.sample(16, steps=10)
    stop.set()
    thread.join()
    assert sum(t > begun for t in ticks) >= 3


def test_threads_make_the_same_images(model, tiny):
    expected = {seed: np.asarray(tiny.sample(3, steps=4, seed=seed)) for seed in range(6)}
    f = ss.Sampler(ss.Denoiser(lambda x, t: 0.5 * x, (1, 4, 4)))
    own = {seed: np.asarray(f.sample(3, steps=4, seed=seed)) for seed in range(6)}
    failed = []

    def work(seed):
        for _ in range(3):
            if not np.array_equal(tiny.sample(3, steps=4, seed=seed), expected[seed]):
                failed.append(seed)
            if not np.array_equal(f.sample(3, steps=4, seed=seed, callback=lambda step: None), own[seed]):
                failed.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert failed == [] and not any(t.is_alive() for t in threads)


def test_a_trajectory_may_be_left_and_shared(tiny):
    run = tiny.trajectory(2, steps=8)
    next(run)
    del run
    run, seen = tiny.trajectory(2, steps=20), []
    threads = [threading.Thread(target=lambda: seen.extend(step.step for step in run)) for _ in range(4)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert sorted(seen) == list(range(1, 21))


def _child(seed, queue, model):
    queue.put(np.asarray(model.sample(2, steps=3, seed=seed, eta=1)))


@linux
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_goes_on(model):
    expected = np.asarray(model.sample(2, steps=3, seed=7, eta=1))  # the engine's threads are running
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(7, queue, model))
    child.start()
    assert np.array_equal(queue.get(timeout=60), expected)
    child.join(60)
    assert child.exitcode == 0
    # A model loaded in the child has threads of its own, and exceptions pass.
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert np.array_equal(ss.load().sample(2, steps=3, seed=7, eta=1), expected)
            try:
                model.sample(2, steps=3, callback=lambda step: 1 / 0)
            except ZeroDivisionError:
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def _half(x, t):
    return 0.5 * x


def test_pickles(model, trained):
    for sampler in (model, trained.load(weights="raw"), ss.Sampler(ss.Denoiser(_half, (1, 2, 2)), schedule=ss.Schedule.cosine(50))):
        again = pickle.loads(pickle.dumps(sampler))
        assert type(again) is type(sampler)
        assert np.array_equal(again.sample(2, steps=3), sampler.sample(2, steps=3))
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pickle.dumps(ss.Denoiser(lambda x, t: x, (1, 2, 2)))


def test_spawned_processes(model):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_child, args=(7, queue, model))
    child.start()
    assert np.array_equal(queue.get(timeout=120), model.sample(2, steps=3, seed=7, eta=1))
    child.join(60)


def _resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@linux
def test_a_thousand_calls_leave_no_memory_behind():
    def f(x, t):
        if t == 3:
            raise Mine
        return 0.5 * x

    good = ss.Sampler(ss.Denoiser(lambda x, t: 0.5 * x, (4, 64, 64)))
    bad = ss.Sampler(ss.Denoiser(f, (4, 64, 64)))
    x = np.zeros((2, 4, 64, 64), np.float32)

    def calls(n):
        for i in range(n):
            good.sample(2, times=[900, 3], eta=1, seed=i, callback=lambda step: step.x)
            good.encode(x, times=[900, 3])
            next(good.trajectory(2, times=[900, 3]))
            with pytest.raises(Mine):
                bad.sample(2, times=[900, 3])
            with pytest.raises(ValueError):
                good.sample(2, steps=0)
        gc.collect()

    calls(100)
    before = _resident()
    calls(1000)
    # One leaked array of this size a call would be 131 MB.
    assert _resident() - before < 16e6


def test_what_memory_cannot_hold_is_an_exception(model):
    """A failed allocation in the library would end the process."""
    x, many = np.zeros((1, 1, 28, 28), np.float32), 10**13
    for run in (
        lambda: model.sample(many),
        lambda: model.sample(2**64 - 1),
        lambda: model.trajectory(many),
        lambda: model.interpolate([1, 2], many),
        lambda: model.interpolate([1, 2, 3, 4], 10**8),
        lambda: model.inpaint(x[0], np.ones((28, 28)), many),
        lambda: model.likelihood(x, method="ode", probes=many),
        lambda: ss.latents(many, (3, 8, 8)),
        lambda: ss.latents(1, (2**40, 2**20, 2**20)),
        lambda: ss.noise(many, (3, 8, 8), 0),
        lambda: ss.Features.from_vectors(np.zeros((2, 10**7), np.float32), "mine"),
        lambda: ss.kernel_distance(model.sample(4, steps=1), model.sample(4, steps=1), subsets=many, size=3),
    ):
        with pytest.raises(MemoryError, match="there is no memory for"):
            run()


def test_panics_are_exceptions_that_are_named_as_bugs():
    assert issubclass(ss.InternalError, RuntimeError)
    from skipstone import _skipstone

    with pytest.raises(ss.InternalError, match="a bug in skipstone .*: on purpose; please report"):
        _skipstone._panic()


def test_the_bar(model, monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    model.sample(1, steps=3)
    assert stderr.getvalue() == ""  # no terminal
    model.sample(1, steps=3, progress=True)
    assert stderr.getvalue().startswith("\rsampling:   0%") and "100%" in stderr.getvalue() and "3/3" in stderr.getvalue()
    stderr.isatty = lambda: True
    stderr.truncate(0), stderr.seek(0)
    model.sample(1, steps=3, progress=False)
    assert stderr.getvalue() == ""
    model.encode(np.zeros((1, 1, 28, 28), np.float32), steps=3)
    assert "encoding: 100%" in stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", None)
    model.sample(1, steps=3)


def test_threads_by_environment():
    program = "import skipstone as ss; print(ss.load().threads, ss.load(threads=3).threads)"
    environment = {**os.environ, "SKIPSTONE_THREADS": "2"}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).split() == ["2", "3"]
    environment["SKIPSTONE_THREADS"] = "many"
    assert subprocess.run([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL).returncode == 1


def test_the_command_is_in_the_package():
    done = subprocess.run([sys.executable, "-m", "skipstone", "--version"], capture_output=True, text=True)
    assert done.stdout.split() == ["skipstone", ss.__version__]
    done = subprocess.run([sys.executable, "-m", "skipstone", "sample", "--steps", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and "steps" in done.stderr
