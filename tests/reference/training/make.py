"""Writes the reference curves of tests/learn/train_parity.rs to this folder: PyTorch trains torchvision's networks and
that of efficientnet_lite_pytorch on one fixed batch, with all layers learning and batch norm in training mode. Both
sides generate weights, pictures and sample weights from names (../models/generate.py). The networks run in f64, so that
the curves have almost no rounding error. The script also prints the differences of a run in f32, which show the effect
of rounding.

    python make.py          # training.json

The committed file names the versions that wrote it.
"""

import json
import math
import pathlib
import sys

import numpy as np
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "models"))
from generate import parameter, uniform  # noqa: E402

CLASSES = 7
SMOOTHING = 0.1
# architecture, optimiser, steps, warm-up, peak rate, weight decay, largest norm of gradients, batch, side. AdamW moves
# a weight whose gradient is only rounding noise as far as any other, so its rate is small and its decay large.
CASES = [
    ("mobilenet_v2", "sgd", 20, 4, 1e-3, 1.0, None, 8, 64),
    ("mobilenet_v2", "sgd", 20, 4, 5e-4, 2.0, 2.0, 8, 64),
    ("mobilenet_v2", "adamw", 20, 4, 5e-6, 200.0, None, 8, 64),
    ("mobilenet_v2", "adamw", 20, 4, 5e-6, 200.0, 2.0, 8, 64),
    ("resnet50", "sgd", 5, 2, 3e-4, 3.0, None, 4, 64),
    ("efficientnet_lite0", "sgd", 20, 4, 1e-3, 1.0, None, 8, 64),
]
# Stored values per tensor.
SAMPLES = 8


def optimiser(kind, model, decay):
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": decay},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=0.1)


def schedule(peak, steps, warm_up):
    """Learning rates of all steps: a linear warm-up, then half a cosine, from PyTorch's schedulers."""
    dummy = torch.optim.SGD([torch.zeros(1)], lr=peak)
    up = torch.optim.lr_scheduler.LambdaLR(dummy, lambda step: (step + 1) / warm_up)
    rates = []
    for _ in range(warm_up):
        rates.append(dummy.param_groups[0]["lr"])
        dummy.step()
        up.step()
    dummy = torch.optim.SGD([torch.zeros(1)], lr=peak)
    down = torch.optim.lr_scheduler.CosineAnnealingLR(dummy, steps - warm_up)
    for _ in range(steps - warm_up):
        rates.append(dummy.param_groups[0]["lr"])
        dummy.step()
        down.step()
    return rates


def pictures(batch, side):
    """Patches of 16 pixels and a little noise: batch norm is well conditioned only if the samples differ."""
    coarse = uniform("patches", (batch, 3, side // 16, side // 16), -2.0, 2.0)
    return coarse.repeat(16, 2).repeat(16, 3) + uniform("input", (batch, 3, side, side), -0.25, 0.25)


def tensor(name, shape):
    """As in ../models, except for norms: most values pass MobileNet's ReLUs, and residual branches start small. With
    norms around zero the gradients grow from block to block, and rounding dominates the curve after a few steps."""
    if len(shape) == 1 and name.endswith(("conv.3.weight", "bn3.weight", "_bn2.weight")):
        return uniform(name, shape, 0.1, 0.3)
    if len(shape) == 1 and name.startswith(("features.", "_b")) and name.endswith(".bias"):
        return uniform(name, shape, 1.0, 3.0)
    return parameter(name, shape)


def network(name):
    """The network without dropout and stochastic depth, with PyTorch's momentum of batch norms."""
    if name.startswith("efficientnet"):
        none = {"dropout_rate": 0.0, "drop_connect_rate": 0.0}
        return EfficientNet.from_name(
            name.replace("_", "-"), num_classes=CLASSES, image_size=None, batch_norm_momentum=0.9, **none)
    model = getattr(torchvision.models, name)(num_classes=CLASSES)
    if name == "mobilenet_v2":
        model.classifier[0].p = 0.0
    return model


def train(case, dtype):
    name, kind, steps, warm_up, peak, decay, clip, batch, side = case
    model = network(name).train()
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    state = {k: torch.from_numpy(tensor(k, shape)) for k, shape in shapes.items()}
    model.load_state_dict(state, strict=False)
    model = model.to(dtype)
    x = torch.from_numpy(pictures(batch, side)).to(dtype)
    weights = torch.from_numpy(uniform("sample weights", (batch,), 0.5, 2.0)).to(dtype)
    labels = torch.tensor([i * 3 % CLASSES for i in range(batch)])
    each = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=SMOOTHING)
    optim = optimiser(kind, model, decay)
    losses, lengths = [], []
    rates = schedule(peak, steps, warm_up)
    for rate in rates:
        for group in optim.param_groups:
            group["lr"] = rate
        optim.zero_grad()
        loss = (each(model(x), labels) * weights).sum() / weights.sum()
        loss.backward()
        length = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf if clip is None else clip)
        optim.step()
        losses.append(loss.item())
        lengths.append(length.item())
    return model, rates, losses, lengths


def after(model):
    """For every running statistic and the classifier: the root mean square, and some values at even distances."""
    out = {}
    for name, tensor in model.state_dict().items():
        if "running_" in name or name.startswith(("fc.", "_fc.", "classifier.")):
            values = tensor.flatten().double().numpy()
            at = [i * (len(values) - 1) // (SAMPLES - 1) for i in range(SAMPLES)]
            out[name] = [float(f"{v:.9g}") for v in [np.sqrt(np.mean(values**2)), *values[at]]]
    return out


def main():
    cases = []
    for case in CASES:
        name, kind, steps, warm_up, peak, decay, clip, batch, side = case
        model, rates, losses, lengths = train(case, torch.float64)
        single, _, rounded, _ = train(case, torch.float32)
        worst = max(abs(a - b) / a for a, b in zip(losses, rounded))
        exact, near = after(model), after(single)
        drift = {k: max(abs(a - b) for a, b in zip(exact[k], near[k])) / exact[k][0] for k in exact if "running" in k}
        where = max(drift, key=drift.get)
        print(f"{name} {kind} clip {clip}: loss {losses[0]:.4f} to {losses[-1]:.4f}, lengths {min(lengths):.3g} to "
              f"{max(lengths):.3g}; in f32 losses differ by {worst:.1e}, running statistics by {drift[where]:.1e} ({where})")
        cases.append({"architecture": name, "optimizer": kind, "steps": steps, "warm_up": warm_up, "peak": peak,
                      "weight_decay": decay, "clip": clip, "batch": batch, "side": side, "rates": rates,
                      "losses": losses, "lengths": lengths, "after": exact})
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    value = {"versions": versions, "classes": CLASSES, "smoothing": SMOOTHING, "cases": cases}
    (HERE / "training.json").write_text(json.dumps(value, separators=(",", ":")) + "\n")


main()
