"""scores.json, scores.npz, scores_*.onnx: image scores by their definitions, in NumPy, SciPy and ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import scipy.linalg
import torch
from onnx import TensorProto, helper, numpy_helper

from .common import VALUES, generator, normal, write_json


def rows(name, n, d):
    """n vectors of d numbers with three decimals, correlated and not centred."""
    gen = generator(f"scores {name}")
    mixed = normal(gen, n, d) @ normal(gen, d, d) + normal(gen, d)
    return np.round(mixed.double().numpy(), 3)


def frechet(x, y):
    """Fréchet distance by the Schur decomposition of the product, which need not be symmetric."""
    (m1, s1), (m2, s2) = [(v.mean(0), np.atleast_2d(np.cov(v, rowvar=False))) for v in (x, y)]
    root = scipy.linalg.sqrtm(s1 @ s2)
    return float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(root).real)


def kernel(x, y):
    return (sum(a * b for a, b in zip(x, y)) / len(x) + 1) ** 3


def mmd2(x, y):
    """The unbiased estimator, pair by pair."""
    m, n = len(x), len(y)
    own = lambda v: sum(kernel(a, b) for i, a in enumerate(v) for j, b in enumerate(v) if i != j)
    return own(x) / (m * (m - 1)) + own(y) / (n * (n - 1)) - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def jackknife(x, y):
    """The standard error, leaving out each vector of each set in turn."""
    def part(estimates):
        n = len(estimates)
        return (n - 1) / n * sum((e - np.mean(estimates)) ** 2 for e in estimates)
    without_x = [mmd2(np.delete(x, i, 0), y) for i in range(len(x))]
    without_y = [mmd2(x, np.delete(y, i, 0)) for i in range(len(y))]
    return float(np.sqrt(part(without_x) + part(without_y)))


def share_covered(queries, centres, k):
    """The share of queries inside a ball around some centre; the ball reaches to the k-th nearest other centre."""
    distance = lambda a, b: np.sqrt(((a - b) ** 2).sum())
    radii = [sorted(distance(c, o) for j, o in enumerate(centres) if j != i)[k - 1] for i, c in enumerate(centres)]
    return float(np.mean([any(distance(q, c) <= r for c, r in zip(centres, radii)) for q in queries]))


def sets():
    cases = []
    for name, m, n, d in [("thin", 14, 11, 3), ("long", 6, 9, 8), ("flat", 30, 25, 2)]:
        x, y = rows(f"{name} x", m, d), rows(f"{name} y", n, d)
        cases.append({
            "name": name, "x": x.tolist(), "y": y.tolist(), "frechet": frechet(x, y), "mmd2": float(mmd2(x, y)),
            "standard_error": jackknife(x, y), "precision": {k: share_covered(y, x, k) for k in (1, 3)},
            "recall": {k: share_covered(x, y, k) for k in (1, 3)},
        })
    return cases


def network(name, inputs, nodes, outputs, weights):
    tensors = [numpy_helper.from_array(np.round(value.numpy(), 3), key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    (VALUES / f"{name}.onnx").write_bytes(model.SerializeToString())
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def picture(gen, *shape):
    return torch.randint(0, 256, shape, generator=gen)


def networks():
    """One network with free size and three channels, and one with fixed size and one channel."""
    gen = generator("scores networks")
    info = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    free = network(
        "scores_free", [info("image", ["n", 3, "h", "w"])],
        [
            # Strides and dilations are the defaults, stated because not every ONNX reader knows them.
            helper.make_node("Conv", ["image", "w", "b"], ["conv"], pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1]),
            helper.make_node("Relu", ["conv"], ["active"]),
            helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        ],
        [info("pooled", ["n", 4, 1, 1])], {"w": normal(gen, 4, 3, 3, 3), "b": normal(gen, 4)},
    )
    fixed = network(
        "scores_fixed", [info("image", [1, 1, 6, 5])],
        [
            helper.make_node("Sub", ["image", "half"], ["centred"]),
            helper.make_node("Flatten", ["centred"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["inner"]),
            helper.make_node("Relu", ["inner"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", "w2", "b2"], ["scores"]),
        ],
        [info("hidden", [1, 3]), info("scores", [1, 2])],
        {"half": torch.tensor([0.5]), "w": normal(gen, 30, 3), "b": normal(gen, 3), "w2": normal(gen, 3, 2), "b2": normal(gen, 2)},
    )
    colour, gray = picture(gen, 2, 3, 7, 6), picture(gen, 3, 1, 11, 4)
    # As torchvision's ToTensor converts the bytes of a file.
    unit = lambda images: images.float().div(255)
    small = torch.nn.functional.interpolate(unit(gray), size=(6, 5), mode="bilinear", align_corners=False)
    run = lambda session, images, output: session.run([output], {"image": images.numpy()})[0].reshape(-1)
    return [
        {"network": "scores_free", "output": "pooled", "images": colour.tolist(),
         "features": [run(free, unit(colour[i:i + 1]), "pooled").tolist() for i in range(2)]},
        {"network": "scores_free", "output": "pooled", "images": gray.tolist(),
         "features": [run(free, unit(gray[i:i + 1]).repeat(1, 3, 1, 1), "pooled").tolist() for i in range(3)]},
        *({"network": "scores_fixed", "output": output, "images": gray.tolist(),
           "features": [run(fixed, small[i:i + 1], output).tolist() for i in range(3)]} for output in ("hidden", "scores")),
    ]


def make():
    cases = sets()
    x = np.array(cases[0]["x"])
    # The same call as in pytorch-fid.
    np.savez_compressed(VALUES / "scores.npz", mu=np.mean(x, axis=0), sigma=np.cov(x, rowvar=False))
    write_json("scores.json", {"cases": cases, "networks": networks()})
