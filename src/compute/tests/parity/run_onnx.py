"""Runs ONNX files in onnxruntime and prints what they answer as JSON, one object per file.

    python run_onnx.py FOLDER...    # each with network.onnx, and the input in input.f32 (little-endian)
"""

import json
import pathlib
import sys

import numpy
import onnxruntime


def answer(folder):
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    [taken] = session.get_inputs()
    values = numpy.fromfile(folder / "input.f32", dtype="<f4").reshape([-1, *taken.shape[1:]])
    results = session.run(None, {taken.name: values})
    named = {output.name: result.flatten().tolist() for output, result in zip(session.get_outputs(), results, strict=True)}
    return {"input": taken.shape[1:], "properties": session.get_modelmeta().custom_metadata_map, **named}


print(json.dumps([answer(pathlib.Path(folder)) for folder in sys.argv[1:]]))
