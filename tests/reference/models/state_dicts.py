"""Checks exported networks with PyTorch, by hand: torchvision takes each state dict with strict=True, and gives the logits that
onnxruntime has for the ONNX file of the same network. The tests check the ONNX files and the values of the state dicts
(src/compute/tests/parity/export.rs), which needs no PyTorch.

    touchline pack export PACK --to safetensors -o FOLDER && touchline pack export PACK --to onnx -o FOLDER
    python state_dicts.py FOLDER        # needs torch, torchvision, onnx and onnxruntime

Networks that torchvision does not have are only checked by ONNX's own checker.
"""

import json
import pathlib
import sys

import onnx
import onnxruntime
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file

NETWORKS = {"mobilenet_v2": torchvision.models.mobilenet_v2, "resnet50": torchvision.models.resnet50}


def check(file):
    onnx.checker.check_model(file.with_suffix(".onnx"), full_check=True)
    with safe_open(file, "pt") as opened:
        properties = json.loads(opened.metadata()["touchline"])
    build = NETWORKS.get(properties["architecture"])
    if build is None:
        return f"{properties['architecture']}: ONNX is well-formed"
    network = build(num_classes=len(json.loads(properties["classes"])))
    network.load_state_dict(load_file(file), strict=True)
    size = json.loads(properties["input"])
    x = torch.rand(2, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(1)) * 4 - 2
    with torch.no_grad():
        want = network.eval()(x)
    session = onnxruntime.InferenceSession(file.with_suffix(".onnx"))
    [have] = session.run(["logits"], {"input": x.numpy()})
    return f"{properties['architecture']}: logits differ by {(want - torch.from_numpy(have)).abs().max():.1e} at most"


for file in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    print(f"{file.name}: {check(file)}")
