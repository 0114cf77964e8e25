"""Sets that the command draws in parts, read by NumPy, tarfile and the package."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

import skipstone as ss


@pytest.mark.parametrize("name", ["set.npz", "set-%05d.tar", "set/"])
def test_a_set_of_shards_is_one_data_set(model, command, tmp_path, name):
    out = str(tmp_path / name)
    for k in (2, 1):
        command("sample", "-n", "5", "--steps", "2", "--seed", "3", "--shard", f"{k}/2", "-o", out)
    pixels = model.sample(5, steps=2, seed=3, progress=False).images().reshape(-1, 28)
    if name.endswith(".npz"):
        parts = [np.load(tmp_path / f"set-0000{k}-of-00002.npz")["arr_0"] for k in (1, 2)]
        assert [part.dtype for part in parts] == [np.uint8] * 2 and parts[0].shape[1:] == (28, 28, 1)
        assert np.array_equal(np.concatenate(parts).reshape(-1, 28), pixels)
    elif name.endswith(".tar"):
        found = {}
        for k in (1, 2):
            with tarfile.open(tmp_path / f"set-0000{k}.tar") as archive:
                found |= {entry.name: archive.extractfile(entry).read() for entry in archive if entry.name.endswith(".png")}
        assert sorted(found) == [f"{i:06}.png" for i in range(5)]
        opened = [np.asarray(Image.open(io.BytesIO(found[key]))) for key in sorted(found)]
        assert np.array_equal(np.concatenate(opened), pixels)
    images, labels = ss.read_images(out, size=(28, 28), channels=1)
    assert labels is None and np.array_equal(np.round((images + 1) * 127.5).reshape(-1, 28), pixels)
