"""Devices: what there is, how one is chosen, and that a graphics processor computes what the command computes on it."""

import json
import pickle

import numpy as np
import pytest

import skipstone as ss


@pytest.fixture(scope="module")
def graphics():
    names = [device.device for device in ss.devices() if device.engine != "cpu" and device.trouble is None]
    if not names:
        pytest.skip("there is no graphics processor, or the package was built without the feature gpu")
    return names[0]


def test_devices_are_the_commands(command):
    theirs = [json.loads(line) for line in command("devices", "--json").stdout.splitlines()]
    names = ("device", "name", "precisions", "engine", "software", "trouble")
    ours = [{name: getattr(device, name) for name in names} for device in ss.devices()]
    assert ours[0]["device"] == ours[0]["engine"] == "cpu"
    # The command may have an engine that the package was built without.
    assert ours == [{name: device[name] for name in names} for device in theirs[: len(ours)]]


def test_a_device_that_is_not_there_is_an_error(monkeypatch):
    with pytest.raises(ValueError, match="abacus"):
        ss.load(device="abacus")
    with pytest.raises((ValueError, OSError), match="gpu:78"):
        ss.load(device="gpu:78")
    monkeypatch.setenv("SKIPSTONE_DEVICE", "abacus")
    with pytest.raises(ValueError, match="SKIPSTONE_DEVICE.*abacus"):
        ss.load()
    assert ss.load(device="cpu").sample(1, steps=1, progress=False).shape == (1, 1, 28, 28)


def test_samples_on_a_graphics_processor(model, command, tmp_path, graphics, monkeypatch):
    there = ss.load(device=graphics)
    ours = there.sample(2, steps=3, progress=False)
    ours.save(tmp_path / "ours.npy")
    command("sample", "-n", 2, "--steps", 3, "--device", graphics, "-o", tmp_path / "theirs.npy")
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    assert np.abs(np.asarray(ours) - model.sample(2, steps=3, progress=False)).max() < 1e-4
    again = pickle.loads(pickle.dumps(there)).sample(2, steps=3, progress=False)
    assert np.array_equal(again, ours)
    monkeypatch.setenv("SKIPSTONE_DEVICE", graphics)
    assert np.array_equal(ss.load().sample(2, steps=3, progress=False), ours)


def test_training_on_a_graphics_processor(tmp_path, graphics):
    data = np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8), np.uint8)
    network = {"block_out_channels": [8], "attention": [False], "norm_num_groups": 4}
    losses = {}
    for device in ("cpu", graphics):
        seen = []
        ss.train(
            data,
            out=tmp_path / device.replace(":", "-"),
            model=network,
            train={"steps": 3, "batch": 4, "shard": 4, "preview_every": 0},
            device=device,
            progress=False,
            callback=lambda e, seen=seen: seen.append(e["loss"]) if e["event"] == "step" else None,
        )
        losses[device] = seen
    assert len(losses["cpu"]) == 3
    np.testing.assert_allclose(losses[graphics], losses["cpu"], rtol=1e-4)
