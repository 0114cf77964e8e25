"""Scores against NumPy and SciPy-free formulas."""

import json

import numpy as np
import pytest
from conftest import discs

import skipstone as ss


def garments(n, seed):
    return ss.load().sample(n, steps=4, seed=seed)


def test_statistics_merge_and_save(tmp_path):
    x, y = garments(20, 1), garments(12, 2)
    a, b = ss.fit(x), ss.fit(y)
    whole = ss.fit(np.concatenate([x, y]))
    merged = a.merge(b)
    assert merged.count == len(merged) == 32 and np.allclose(merged.mean, whole.mean)
    assert np.allclose(merged.covariance, whole.covariance) and np.array_equal(merged.vectors, whole.vectors)
    v = whole.vectors.astype(np.float64)
    assert np.allclose(whole.mean, v.mean(0)) and np.allclose(whole.covariance, np.cov(v.T))
    merged.save(tmp_path / "s.npz")
    again = ss.Features.load(tmp_path / "s.npz", "fashion-cnn")
    assert again.count == 32 and again.vectors is None and again.network == merged.network
    with np.load(tmp_path / "s.npz") as file:
        assert np.allclose(file["mu"], merged.mean) and np.allclose(file["sigma"], merged.covariance)
    assert ss.frechet(x, again) == pytest.approx(ss.frechet(x, merged), rel=1e-9)
    with pytest.raises(ValueError, match="vectors"):
        ss.kernel_distance(x, again)


def test_the_frechet_distance_is_its_formula():
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((200, 6)).astype(np.float32), (1 + 2 * rng.standard_normal((150, 6))).astype(np.float32)
    a, b = ss.Features.from_vectors(u, "mine"), ss.Features.from_vectors(v, "mine")
    s, t = np.cov(u.astype(float).T), np.cov(v.astype(float).T)
    eigenvalues, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(eigenvalues) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ t @ root)).sum()
    expected = ((u.mean(0, dtype=float) - v.mean(0, dtype=float)) ** 2).sum() + np.trace(s + t) - 2 * cross
    assert ss.frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert ss.frechet(a, a) == pytest.approx(0, abs=1e-6)

    k = lambda x, y: (x.astype(float) @ y.astype(float).T / 6 + 1) ** 3
    off = lambda m: (m.sum() - np.trace(m)) / (len(m) * (len(m) - 1))
    expected = off(k(u, u)) + off(k(v, v)) - 2 * k(u, v).mean()
    value, error = ss.kernel_distance(a, b)
    assert value == pytest.approx(expected, rel=1e-9) and error > 0
    mean, _ = ss.kernel_distance(a, b, subsets=50, size=100)
    assert mean == pytest.approx(expected, rel=0.2)

    d = lambda x, y: np.sqrt(((x[:, None].astype(float) - y[None]) ** 2).sum(-1))
    share = lambda x, of: (d(x, of) <= np.sort(d(of, of), 1)[:, 3]).any(1).mean()
    precision, recall = ss.precision_recall(b, a)
    assert (precision, recall) == pytest.approx((share(v, u), share(u, v)))
    with pytest.raises(ValueError, match="different"):
        ss.frechet(a, ss.Features.from_vectors(v, "other"))
    with pytest.raises(TypeError, match="features="):
        ss.frechet(a, np.zeros((2, 1, 28, 28), np.float32))


def test_images_are_scored_as_pictures():
    x = garments(10, 3)
    a = ss.fit(x)
    assert np.array_equal(ss.fit(np.asarray(x) * 1.0000001).vectors, a.vectors)
    assert np.array_equal(ss.fit(x.images().transpose(0, 3, 1, 2)).vectors, a.vectors)
    assert ss.precision_recall(x, x) == (1.0, 1.0)
    with pytest.raises(ValueError, match="features"):
        ss.fit(x, "inception")
    with pytest.raises(ValueError):
        ss.fit(np.zeros((2, 3, 28, 28), np.float32))


def test_an_evaluation_is_the_commands(command, tmp_path):
    model = ss.load()
    x = model.sample(40, steps=8, seed=8).images().transpose(0, 3, 1, 2)
    np.save(tmp_path / "data.npy", x)
    flags = ["--steps", "2,4", "--eta", "0,1", "-n", 8, "--repeats", "4x2"]
    command("evaluate", "--data", tmp_path / "data.npy", *flags, "-o", tmp_path / "theirs")
    rows = model.evaluate(tmp_path / "data.npy", out=tmp_path / "ours", steps=[2, 4], eta=[0, 1], n=8, repeats="4x2")
    assert len(rows) == 4

    def results(folder):
        rows = json.loads((tmp_path / folder / "results.json").read_text())
        rows = rows["rows"] if isinstance(rows, dict) else rows
        return [{k: v for k, v in row.items() if k not in ("seconds", "machines")} for row in rows]

    assert results("ours") == results("theirs")
    assert rows == json.loads((tmp_path / "ours/results.json").read_text())["rows"]
    assert (tmp_path / "ours/report.html").read_text().startswith("<!")
    # Nothing is drawn twice.
    drawn = lambda: {file: file.stat().st_mtime_ns for file in (tmp_path / "ours/samples").rglob("*.png")}
    before = drawn()
    again = model.evaluate(tmp_path / "data.npy", out=tmp_path / "ours", steps=[2, 4], eta=[0, 1], n=8, repeats="4x2")
    assert [row["frechet"] for row in again] == [row["frechet"] for row in rows] and before and drawn() == before
    # A file that is damaged is drawn again, and that is said.
    next((tmp_path / "ours/samples").rglob("*.png")).write_bytes(b"")
    with pytest.warns(UserWarning, match="drawn again"):
        again = model.evaluate(tmp_path / "data.npy", out=tmp_path / "ours", steps=[2, 4], eta=[0, 1], n=8, repeats="4x2")
    assert [row["frechet"] for row in again] == [row["frechet"] for row in rows]
    # Restarted runs are other runs.
    (row,) = model.evaluate(tmp_path / "data.npy", out=tmp_path / "ours", steps=4, n=8, repeats=None, restart=(249, 749, 2))
    assert (row["calls"], row["restart"]) == (8, "[249,749,2]")


def test_a_denoiser_needs_a_name_to_be_evaluated(tmp_path):
    x = discs(40, 28)
    half = lambda x, t: 0.5 * x
    with pytest.raises(ValueError, match="name"):
        ss.Sampler(ss.Denoiser(half, (1, 28, 28))).evaluate(x, out=tmp_path / "e", steps=2, n=4)
    named = ss.Sampler(ss.Denoiser(half, (1, 28, 28), name="half"))
    (row,) = named.evaluate(x, out=tmp_path / "e", steps=2, n=4, repeats=None)
    assert row["frechet"] > 0


def test_data_sets_are_read():
    import os

    if not os.path.isdir("/usr/share/datasets/fashion-mnist") and not os.environ.get("SKIPSTONE_DATA"):
        pytest.skip("no Fashion-MNIST on this machine")
    images, labels = ss.read_images("fashion-mnist", 5, split="test")
    assert images.shape == (5, 1, 28, 28) and images.min() == -1 and len(labels) == 5
    assert ss.read_images("fashion-mnist", 2, size=(32, 32), channels=3)[0].shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="split"):
        ss.read_images("fashion-mnist", split="dev")


def test_a_missing_data_set_says_what_brings_it():
    with pytest.raises(FileNotFoundError, match="cifar"):
        ss.read_images("cifar10")
