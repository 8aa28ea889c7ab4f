"""The peers of benches/models.rs: forward passes of torchvision's MobileNetV2 and ResNet50 at 224x224 in ONNX Runtime
and PyTorch, f32, two threads, batch 1, 5 and 8. Prints one line a measurement: network, batch, peer, median ms.

    python benches/peers/models.py [mobilenet_v2|resnet50] [seconds a measurement]

Needs torch, torchvision, onnx, onnxscript and onnxruntime. To compare fairly, run it and the Rust benchmark by turns on an idle
machine.
"""

import io
import statistics
import sys
import time

import numpy as np
import onnxruntime
import torch
import torchvision

THREADS = 2
torch.set_num_threads(THREADS)


def median_ms(run, seconds):
    for _ in range(3):
        run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def session(model, x):
    """An ONNX Runtime session of the exported model, for exactly this batch."""
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


def main():
    wanted = sys.argv[1:2] or ["mobilenet_v2", "resnet50"]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {THREADS} threads")
    for name in wanted:
        model = getattr(torchvision.models, name)(num_classes=7).eval()
        for batch in [1, 5, 8]:
            x = torch.randn(batch, 3, 224, 224)
            ort = session(model, x)
            feed = {ort.get_inputs()[0].name: x.numpy()}
            with torch.inference_mode():
                difference = np.abs(ort.run(None, feed)[0] - model(x).numpy()).max()
                assert difference < 1e-3, difference
                print(f"{name} {batch} onnxruntime {median_ms(lambda: ort.run(None, feed), seconds):.2f}", flush=True)
                print(f"{name} {batch} pytorch {median_ms(lambda: model(x), seconds):.2f}", flush=True)


main()
