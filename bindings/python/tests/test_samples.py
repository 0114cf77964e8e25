"""Samples: an array that can be seen and saved."""

import io
import pickle

import numpy as np
import pytest

import skipstone as ss


def test_samples_are_an_array(model):
    x = model.sample(3, steps=2)
    a = np.asarray(x)
    assert a is x.array and a.dtype == np.float32 and a.shape == x.shape == (3, 1, 28, 28)
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert np.array(x, copy=True) is not a
    assert len(x) == 3 and x.ndim == 4 and np.array_equal(x[1], a[1])
    part = x[1:]
    assert isinstance(part, ss.Samples) and part.first == 1 and np.array_equal(part, a[1:])
    assert (np.add(x, 1) == a + 1).all() and sum(1 for _ in x) == 3
    again = pickle.loads(pickle.dumps(x))
    assert np.array_equal(again, x) and again.options == x.options
    assert x.options["steps"] == 2 and x.options["model"] == model.hash
    with pytest.raises(ValueError, match="n, c, h, w"):
        ss.Samples(np.zeros((2, 2)))


def test_pictures_are_bytes(model):
    Image = pytest.importorskip("PIL.Image")
    x = model.sample(3, steps=2)
    bytes_ = x.images()
    assert bytes_.dtype == np.uint8 and bytes_.shape == (3, 28, 28, 1)
    expected = np.floor(np.clip((np.asarray(x, np.float64) + 1) * 127.5, 0, 255) + 0.5)
    assert np.array_equal(bytes_.transpose(0, 3, 1, 2), expected)
    assert np.array_equal(np.asarray(x.pil()[1]), bytes_[1, :, :, 0])
    grid = Image.open(io.BytesIO(x._repr_png_()))
    assert grid.text["steps"] == "2" and grid.text["n"] == "3"
    assert ss.Samples(np.zeros((1, 3, 4, 4), np.float32)).pil()[0].mode == "RGB"
    four = ss.Samples(np.zeros((1, 4, 4, 4), np.float32))
    assert four._repr_png_() is None
    with pytest.raises(ValueError, match="channels"):
        four.pil()


def test_files_appear_whole_or_not_at_all(model, tmp_path):
    x = model.sample(1, steps=2)
    with pytest.raises(OSError):
        x.save(tmp_path / "missing" / "x.png")
    bad = ss.Samples(np.full((1, 1, 2, 2), np.nan, np.float32))
    with pytest.raises(ValueError):
        bad.save(tmp_path / "bad.png")
    assert list(tmp_path.iterdir()) == []
