import os
import subprocess
import sys

import numpy as np
import pytest

import skipstone as ss

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))


def discs(n, size=8, seed=0):
    """Pictures of discs, uint8 [n, 1, size, size]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    centres, radii = rng.uniform(2, size - 3, (n, 2)), rng.uniform(1.5, 3, n)
    inside = (y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2 < radii[:, None, None] ** 2
    return (255 * inside[:, None]).astype(np.uint8)


RECIPE = """
[model]
sample_size = [8, 8]
channels = 1
block_out_channels = [16, 32]
attention = [false, false]
mid_attention = false

[train]
steps = 60
batch = 16
log_every = 20
preview_every = 0
checkpoint_every = 30
"""


@pytest.fixture(scope="session")
def recipe():
    return RECIPE


@pytest.fixture(scope="session")
def model():
    """The built-in model."""
    return ss.load()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A tiny network of 8x8 images, trained for 60 steps."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return ss.train(discs(64), RECIPE, out=out, progress=False)


@pytest.fixture(scope="session")
def tiny(trained):
    return trained.load()


@pytest.fixture(scope="session")
def command():
    """Runs the skipstone command: the program in $SKIPSTONE_COMMAND, else the one inside the package."""
    program = os.environ.get("SKIPSTONE_COMMAND")
    words = [program] if program else [sys.executable, "-m", "skipstone"]

    def run(*arguments, check=True):
        done = subprocess.run([*words, *map(str, arguments)], capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def normal():
    """The best prediction of noise for data N(mean, variance), pixel by pixel: a closed form."""

    def make(schedule, mean=0.3, variance=0.25):
        a = schedule.alpha_bars

        def eps(x, t):
            return (np.sqrt(1 - a[t]) * (x - np.sqrt(a[t]) * mean) / (a[t] * variance + 1 - a[t])).astype(np.float32)

        return eps

    return make
