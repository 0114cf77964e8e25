"""The examples in docstrings and in the README do what they say."""

import doctest
import os
import re

import pytest

import skipstone as ss

ROOT = os.path.join(os.path.dirname(__file__), "..")


def test_docstrings():
    import skipstone._samples

    ran = sum(doctest.testmod(module).attempted for module in (ss, skipstone._samples))
    assert ran >= 4
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for name in ss.__all__:
        thing = getattr(ss, name)
        for test in finder.find(thing, name) if not isinstance(thing, str) else []:
            runner.run(test)
    assert runner.summarize().failed == 0


def test_the_readme(tmp_path, monkeypatch):
    """Every line of the README's example, with what it assumes."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: the README's example is not run")
    torch.set_num_threads(1)
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("PIL")
    with open(os.path.join(ROOT, "README.md")) as file:
        (code,) = re.findall(r"```python\n(.*?)```", file.read(), re.S)
    monkeypatch.chdir(tmp_path)
    from conftest import RECIPE, discs

    (tmp_path / "recipe.toml").write_text(RECIPE.replace("steps = 60", "steps = 2"))
    unet = diffusers.UNet2DModel(sample_size=32, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
                                 down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    space = {"unet": unet, "pipe": pipe, "eps": lambda x, t: 0.5 * x, "data": discs(16)}
    # Smaller numbers of steps and images, so that it takes seconds; other images for what needs a data set or another shape.
    for long, short in [
        ("steps=100", "steps=3"),
        ("steps=50", "steps=3"),
        ("steps=20", "steps=2"),
        ("64, ", "2, "),
        ("s.encode(x, steps=3)", "s.encode(s.sample(1, steps=2), steps=3)"),
        ('steps=4, out="runs/four"', 'steps=1, from_steps=2, train={"steps": 1, "batch": 4}, out="runs/four"'),
        ("student.sample(64)", "student.sample(2)"),
        ('ss.fit("fashion-mnist")', "ss.fit(model.sample(4, steps=2, seed=9))"),
    ]:
        assert long in code, long
        code = code.replace(long, short)
    exec(code, space)
    assert (tmp_path / "grid.png").exists() and (tmp_path / "runs/a/model").is_dir()


def test_all_versions_agree():
    repository = os.path.join(ROOT, "..", "..")
    if not os.path.exists(os.path.join(repository, "CITATION.cff")):
        pytest.skip("the package is tested outside the repository")
    found = {}
    for name, pattern in [
        ("Cargo.toml", r'\[workspace\.package\]\nversion = "(.*)"'),
        ("bindings/python/Cargo.toml", r'^version = "(.*)"'),
        ("CITATION.cff", r"^version: (.*)"),
    ]:
        with open(os.path.join(repository, name)) as file:
            (found[name],) = re.findall(pattern, file.read(), re.M)
    assert set(found.values()) == {ss.__version__}, found
