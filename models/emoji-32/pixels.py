#!/usr/bin/env python3
"""Makes pixels.onnx, the features in which models/emoji-32 is scored: the means of 4x4 pixels, three colours each.

    pip install onnx==1.19.1 && python models/emoji-32/pixels.py

[1, 3, 32, 32] in 0..1 -> [1, 3, 8, 8] -> `means` [1, 192]. Nothing in it is trained. Where something is and in what colour it
sees; what it is, it does not.
"""

import pathlib

from onnx import TensorProto, checker, helper, save

graph = helper.make_graph(
    [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
    ],
    "pixels",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
    [helper.make_tensor_value_info("means", TensorProto.FLOAT, [1, 192])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model)
save(model, pathlib.Path(__file__).with_name("pixels.onnx"))
