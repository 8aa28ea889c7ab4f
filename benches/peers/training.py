"""The peer of benches/training.rs, which starts it: training steps (forward, backward, AdamW) of torchvision's networks at
224x224, f32, two threads. Reads lines "ARCHITECTURE BATCH LEARNING STEPS", where LEARNING is the number of blocks that learn
(0: all), and answers each with the milliseconds of the steps. Needs torch and torchvision.
"""

import sys
import time

import torch
import torchvision

torch.set_num_threads(2)
CLASSES = 24


def work(architecture, batch, learning):
    """Returns a function that takes a step."""
    model = getattr(torchvision.models, architecture)(num_classes=CLASSES).train()
    x = torch.randn(batch, 3, 224, 224)
    network, parameters = model, model.parameters()
    if architecture == "mobilenet_v2":
        model.classifier[0] = torch.nn.Identity()
    if learning:
        blocks = model.features[-learning:]
        with torch.no_grad():
            x = model.features[:-learning](x)
        network = lambda x: model.classifier(blocks(x).mean((2, 3)))
        parameters = [*blocks.parameters(), *model.classifier.parameters()]
    labels = torch.arange(batch) % CLASSES
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05)

    def step():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(network(x), labels, label_smoothing=0.1).backward()
        optimizer.step()

    return step


def main():
    known = {}
    for line in sys.stdin:
        architecture, batch, learning, steps = line.split()
        key = (architecture, int(batch), int(learning))
        if key not in known:
            known = {key: work(*key)}
        times = []
        for _ in range(int(steps)):
            start = time.perf_counter()
            known[key]()
            times.append(1000 * (time.perf_counter() - start))
        print(" ".join(f"{ms:.2f}" for ms in times), flush=True)


main()
