"""Peers on the same machine: PyTorch's networks on the GPU (eager, and channels-last f16), OpenCV's flow on the CPU.

    python benches/peers/gpu.py [--device 0]

Needs torch with CUDA and torchvision, and opencv-python-headless and numpy for the flow. Without these the flow is
skipped with a message. Prints Markdown tables in the form of `touchline-gpu-bench stages`.
"""

import argparse
import time

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
ROUNDS = 10


def networks(device):
    import torch
    import torchvision

    torch.backends.cudnn.benchmark = True
    print(f"\nPyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, "
          f"{torch.cuda.get_device_name(device)}\n")
    print("| network | mode | pictures | ms | pictures per second |")
    print("|---|---|---|---|---|")
    modes = [
        ("eager f32", torch.float32, torch.contiguous_format),
        ("eager f16", torch.float16, torch.contiguous_format),
        ("channels-last f16", torch.float16, torch.channels_last),
    ]
    for name in ["mobilenet_v2", "resnet50"]:
        for mode, dtype, layout in modes:
            # Random weights: the time of a dense forward pass does not depend on them.
            network = getattr(torchvision.models, name)(weights=None, num_classes=24).eval()
            network = network.to(device=f"cuda:{device}", dtype=dtype, memory_format=layout)
            for batch in BATCHES:
                x = torch.randn(batch, 3, 224, 224, device=f"cuda:{device}", dtype=dtype)
                x = x.contiguous(memory_format=layout)
                best = float("inf")
                with torch.inference_mode():
                    for round_ in range(ROUNDS + 5):
                        began = torch.cuda.Event(enable_timing=True)
                        ended = torch.cuda.Event(enable_timing=True)
                        began.record()
                        network(x)
                        ended.record()
                        torch.cuda.synchronize(device)
                        if round_ >= 5:
                            best = min(best, began.elapsed_time(ended))
                print(f"| {name} | {mode} | {batch} | {best:.3f} | {batch / best * 1e3:.0f} |", flush=True)


def flow():
    try:
        import cv2
        import numpy
    except ImportError as missing:
        print(f"\nOpenCV's flow was not measured: {missing}")
        return
    rng = numpy.random.default_rng(1)
    first = cv2.GaussianBlur(rng.integers(0, 255, (224, 224), dtype=numpy.uint8), (5, 5), 0)
    second = numpy.roll(first, (1, 2), (0, 1))
    best = float("inf")
    for _ in range(30):
        began = time.perf_counter()
        cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        best = min(best, (time.perf_counter() - began) * 1e3)
    print(f"\nOpenCV {cv2.__version__} on {cv2.getNumThreads()} threads of this machine's processor: flow of a 224x224 pair "
          f"{best:.2f} ms")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", type=int, default=0)
    networks(arguments.parse_args().device)
    flow()
