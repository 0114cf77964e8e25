"""data/: data sets as NumPy, tarfile, Pillow and PyArrow write them, and their network values by the definition."""

import io
import json
import tarfile

import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
from onnx import TensorProto, helper
from PIL import Image

from .common import VALUES

N, C, H, W = 4, 3, 6, 4


def values(channels):
    """Numbers in 0..1 without symmetry, [n, channels, height, width]."""
    n, c, y, x = np.meshgrid(*map(np.arange, (N, channels, H, W)), indexing="ij")
    return ((n * 131 + c * 57 + y * 29 + x * 83 + n * x * y * 7) % 256) / 255


def png(image):
    out = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(out, "PNG")
    return out.getvalue()


def tar(path, images, style, deep):
    with tarfile.open(path, "w", format=style) as archive:
        for i, image in enumerate(images):
            # A long name needs the extensions of each format; the label precedes every second image.
            name = f"{'a-long-folder/' * 12 if deep and i == 1 else ''}sample{i:04d}"
            members = [("png", png(image)), ("cls", str(i % 3).encode())]
            for extension, data in members[:: -1 if i % 2 else 1]:
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def table(path, images, **options):
    rows = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(images)]
    schema = pyarrow.schema(
        [("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])), ("label", pyarrow.int64())],
        {"huggingface": json.dumps({"info": {"features": {
            "image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}})},
    )
    data = pyarrow.table({"image": rows, "label": [i % 3 for i in range(len(rows))]}, schema)
    pyarrow.parquet.write_table(data, path, **options)


def make():
    folder = VALUES / "data"
    folder.mkdir(exist_ok=True)
    colour, five = values(C), values(5)
    images = np.round(colour * 255).astype(np.uint8)
    last = images.transpose(0, 2, 3, 1).copy()
    np.save(folder / "bytes_nchw.npy", images)
    np.save(folder / "bytes_nhwc.npy", last)
    np.save(folder / "gray.npy", images[:, 0])
    spread = five * 6 - 2.5
    for name, kind in (("f2", "<f2"), ("f4_big", ">f4"), ("f8", "<f8"), ("u2_big", ">u2")):
        held = np.round(five * 65535) if kind.endswith("u2") else spread
        np.save(folder / f"five_{name}.npy", held.astype(kind))
    np.save(folder / "fortran.npy", np.asfortranarray(spread.astype("f4")))
    np.save(folder / "objects.npy", np.array([{}], dtype=object))
    np.savez(folder / "parts.npz", x_train=images[:2, 0], y_train=np.arange(2), x_test=images[2:, 0],
             y_test=np.array([[2], [0]], dtype=np.uint8))
    np.savez_compressed(folder / "packed.npz", last, np.arange(N) % 3)
    np.savez_compressed(folder / "several.npz", one=last, two=images, names=np.array(["a", "b"]))
    tar(folder / "ustar.tar", images, tarfile.USTAR_FORMAT, False)
    tar(folder / "gnu.tar", images, tarfile.GNU_FORMAT, True)
    tar(folder / "pax.tar", images, tarfile.PAX_FORMAT, True)
    table(folder / "snappy.parquet", images, row_group_size=3)
    table(folder / "plain.parquet", images, compression="none", use_dictionary=False, data_page_version="2.0")
    table(folder / "zstd.parquet", images, compression="zstd")
    # Features of images with five channels: their means.
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["image"], ["means"])], "means",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 5, "height", "width"])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, [1, 5, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "means_of_five.onnx")
    # x = v/127.5 − 1 for bytes; for other types the ends of the range become −1 and 1.
    np.save(folder / "x_bytes.npy", (images / 127.5 - 1).astype("<f4"))
    np.save(folder / "x_five.npy", (2 * (spread - spread.min()) / (spread.max() - spread.min()) - 1).astype("<f4"))
