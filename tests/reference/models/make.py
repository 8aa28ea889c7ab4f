"""Writes the reference numbers of src/compute/tests/parity/models.rs to this folder, as JSON: logits of torchvision's
networks, of resnet50_v2.py and of the package efficientnet_lite_pytorch for generated weights and pictures. The weights
are f32. The networks run in f64, so that the logits have almost no rounding error.

    python make.py                          # one file per network
    python make.py BACKBONE.safetensors     # also mobilenet_v2_backbone.json, from ImageNet weights (f16)

The committed files name the versions that wrote them.
"""

import json
import pathlib
import sys

import safetensors.torch
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet

from generate import parameter, uniform
from resnet50_v2 import ResNet50V2

HERE = pathlib.Path(__file__).parent
VERSIONS = {"torch": torch.__version__, "torchvision": torchvision.__version__}
# classes, batch, height, width: the size of training, an odd size, the smallest size.
CASES = [(25, 1, 224, 224), (1000, 2, 161, 129), (7, 2, 32, 33)]
# The sides are multiples of 32, as TensorFlow's padding requires.
LITE_CASES = [(25, 1, 256, 256), (1000, 2, 160, 128), (7, 2, 32, 64)]


def numbers(tensor):
    """Floats with nine significant digits, which identify an f32 uniquely."""
    return [float(f"{x:.9g}") for x in tensor.flatten().tolist()]


def write(name, value):
    (HERE / f"{name}.json").write_text(json.dumps(value, separators=(",", ":")) + "\n")


def network(build, classes):
    model = build(num_classes=classes).eval()
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    state = {name: torch.from_numpy(parameter(name, tuple(model.state_dict()[name].shape))) for name in names}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model, [[name, list(tensor.shape)] for name, tensor in state.items()]


def lite(name):
    """Without `image_size`, the padding is computed for each picture, as in TensorFlow."""
    return lambda num_classes: EfficientNet.from_name(name, num_classes=num_classes, image_size=None)


def main():
    torch.manual_seed(0)
    builders = {
        "mobilenet_v2": torchvision.models.mobilenet_v2,
        "resnet50": torchvision.models.resnet50,
        "resnet50_v2": ResNet50V2,
        "efficientnet_lite0": lite("efficientnet-lite0"),
        "efficientnet_lite2": lite("efficientnet-lite2"),
    }
    with torch.inference_mode():
        for name, build in builders.items():
            cases = []
            for classes, batch, height, width in LITE_CASES if name.startswith("efficientnet") else CASES:
                model, tensors = network(build, classes)
                x = torch.from_numpy(uniform("input", (batch, 3, height, width), -2.0, 2.0))
                logits = model(x)
                exact = model.double()(x.double())
                spread = (exact[0] - exact[-1]).abs().max().item()
                print(f"{name} {classes} {height}x{width}: std {logits.std():.3f} max {logits.abs().max():.3f}, "
                      f"between samples {spread:.3f}, error of f32 {(logits - exact).abs().max():.2e}")
                cases.append({"classes": classes, "batch": batch, "height": height, "width": width,
                              "logits": numbers(exact)})
            # The classifier has the shape of the last case; the test replaces its number of classes.
            write(name, {"versions": VERSIONS, "tensors": tensors, "cases": cases})

        if len(sys.argv) > 1:
            model = torchvision.models.mobilenet_v2().eval()
            state = {k: v.float() for k, v in safetensors.torch.load_file(sys.argv[1]).items()}
            missing = model.load_state_dict(state, strict=False).missing_keys
            assert all(k.startswith("classifier.") or k.endswith("num_batches_tracked") for k in missing), missing
            x = torch.from_numpy(uniform("input", (1, 3, 224, 224), -2.0, 2.0))
            features = model.double().features(x.double()).mean((2, 3))[0]
            print("backbone:", features[:16], features.sum())
            write("mobilenet_v2_backbone", {"versions": VERSIONS, "height": 224, "width": 224,
                                            "first_features": numbers(features[:16]), "sum": features.sum().item(),
                                            "largest": features.max().item(), "largest_at": features.argmax().item()})


main()
