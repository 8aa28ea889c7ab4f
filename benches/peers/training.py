"""The peer of benches/training.rs: a training step (forward, backward, AdamW) of torchvision's MobileNetV2 at 224x224, batch
16, f32, two threads; the last five blocks on their activations, and all layers. Prints one line per measurement.

    python benches/peers/training.py [seconds per measurement]

Needs torch and torchvision. For a fair comparison, alternate between this script and the Rust benchmark on an idle
machine.
"""

import statistics
import sys
import time

import torch
import torchvision

torch.set_num_threads(2)
BATCH, CLASSES = 16, 24


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    model = torchvision.models.mobilenet_v2(num_classes=CLASSES).train()
    model.classifier[0] = torch.nn.Identity()
    pictures = torch.randn(BATCH, 3, 224, 224)
    labels = torch.arange(BATCH) % CLASSES
    print(f"torch {torch.__version__}, 2 threads")
    for name, learning in [("last 5 blocks", 5), ("all layers", 19)]:
        blocks = model.features[-learning:]
        with torch.no_grad():
            x = model.features[: 19 - learning](pictures) if learning < 19 else pictures
        parameters = [*blocks.parameters(), *model.classifier.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05)

        def step():
            optimizer.zero_grad(set_to_none=True)
            logits = model.classifier(blocks(x).mean((2, 3)))
            torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1).backward()
            optimizer.step()

        for _ in range(3):
            step()
        times, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 5:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        median = statistics.median(times)
        print(f"{name}: {1000 * median:.1f} ms, {BATCH / median:.1f} images per second", flush=True)


main()
