"""timesteps.json: the network calls of every named spacing."""

import numpy as np
from diffusers import DDIMScheduler

from .common import write_json

FULL = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 20, 25, 30, 33, 37, 40, 50, 64, 75, 97]


def by_diffusers(spacing, offset):
    def times(length, count):
        scheduler = DDIMScheduler(num_train_timesteps=length, timestep_spacing=spacing, steps_offset=offset)
        scheduler.set_timesteps(count)
        return scheduler.timesteps.tolist()

    return times


def official_uniform(length, count):
    return list(range(0, length, length // count))[::-1]


def official_quad(length, count):
    return [int(s) for s in list(np.linspace(0, np.sqrt(length * 0.8), count) ** 2)][::-1]


def paper_linear(length, count):
    """t = ⌊T·i/S⌋ in the paper's t, i = 1..S; the network index is t − 1."""
    return [length * i // count - 1 for i in range(count, 0, -1)]


def paper_quadratic(length, count):
    """t = ⌊T·i²/S²⌋ in the paper's t; `cleaned` removes t = 0 (clean data, index −1)."""
    return [length * i * i // (count * count) - 1 for i in range(count, 0, -1)]


SPACINGS = {
    "leading-0": by_diffusers("leading", 0),
    "leading-1": by_diffusers("leading", 1),
    "trailing": by_diffusers("trailing", 0),
    "linspace": by_diffusers("linspace", 0),
    "official-uniform": official_uniform,
    "official-quad": official_quad,
    "linear": paper_linear,
    "quadratic": paper_quadratic,
}


def cleaned(raw):
    """The list without negative entries and repeated timesteps, which are not network calls."""
    out = []
    for time in raw:
        if time >= 0 and (not out or time != out[-1]):
            out.append(time)
    assert all(a > b for a, b in zip(out, out[1:]))
    return out


def family(name, length):
    lengths, checksums, full, negative, repeated, beyond = [], [], {}, [], [], []
    for count in range(1, length + 1):
        raw = SPACINGS[name](length, count)
        times = cleaned(raw)
        if any(time < 0 for time in raw):
            negative.append(count)
        if len(set(raw)) < len(raw):
            repeated.append(count)
        if times[0] >= length:
            beyond.append(count)
            lengths.append(None)
            checksums.append(None)
            continue
        lengths.append(len(times))
        checksums.append(sum((i + 1) * time for i, time in enumerate(times)))
        if count in FULL or count == length:
            # A longer list would only bloat the file; its checksum is enough.
            if len(times) <= 100:
                full[str(count)] = times
    return {
        "spacing": name, "num_train_timesteps": length, "length": lengths, "checksum": checksums, "times": full,
        "raw_has_negative": negative, "raw_has_repeated": len(repeated), "out_of_range": beyond,
    }


def make():
    cases = [family(name, length) for name in SPACINGS for length in (1000, 50, 77)]
    # S for which the last "previous" timestep, t − T//S, is still ≥ 0: diffusers then never reaches clean data.
    unfinished = []
    for count in range(1, 1001):
        times = SPACINGS["trailing"](1000, count)
        if times[-1] >= 0 and times[-1] - 1000 // count >= 0:
            unfinished.append(count)
    write_json("timesteps.json", {"cases": cases, "diffusers_trailing_never_clean": unfinished})
