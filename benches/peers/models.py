"""The peers of benches/models.rs: forward passes of torchvision's MobileNetV2 and ResNet50 at 224x224, and of
EfficientNet-Lite2 at 256x256, in ONNX Runtime, OpenVINO and PyTorch. In each round, Touchline and a peer run a few
passes each, so that both run under the same conditions. The ratio of a round is Touchline's best time divided by the
peer's best time; the script prints the median over the rounds.

    cargo bench --bench models --no-run
    python benches/peers/models.py [mobilenet_v2|resnet50|efficientnet_lite2] [rounds]

Needs torch, torchvision, efficientnet_lite_pytorch, onnx, onnxruntime and openvino.
"""

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx as onnx_format
import onnxruntime
import openvino
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

THREADS = 2
RUNS = 3
torch.set_num_threads(THREADS)


def best_ms(run):
    run()
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


def onnx(model, x):
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=False)
    return file.getvalue()


class Batches(quantization.CalibrationDataReader):
    def __init__(self, name, x):
        self.batches = iter([{name: x.numpy()}])

    def get_next(self):
        return next(self.batches, None)


def int8(exported, x, folder):
    """Quantises as Touchline does: unsigned bytes for values, signed weights with a scale for each channel. OpenVINO
    computes such pairs of quantise and dequantise nodes in int8."""
    folder = Path(folder)
    (folder / "f32.onnx").write_bytes(exported)
    quant_pre_process(folder / "f32.onnx", folder / "folded.onnx", skip_symbolic_shape=True)
    name = onnx_format.load(folder / "folded.onnx").graph.input[0].name
    quantization.quantize_static(
        folder / "folded.onnx",
        folder / "int8.onnx",
        Batches(name, x),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return (folder / "int8.onnx").read_bytes()


def onnx_runtime(exported, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)[0]


def open_vino(exported, x, precision):
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(io.BytesIO(exported)), "CPU", hints)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x.numpy()))

    def run():
        request.infer()
        return request.get_output_tensor().data

    return run


def network(name):
    """The network and the side of its pictures."""
    if name == "efficientnet_lite2":
        return EfficientNet.from_name("efficientnet-lite2", num_classes=7, image_size=256).eval(), 256
    return getattr(torchvision.models, name)(num_classes=7).eval(), 224


class Touchline:
    def __init__(self):
        command = ["cargo", "bench", "--locked", "--quiet", "--bench", "models", "--", "--by-turns"]
        self.process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "RAYON_NUM_THREADS": str(THREADS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def best_ms(self, name, precision, batch):
        self.process.stdin.write(f"{name} {precision} {batch} {RUNS}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def main():
    wanted = [a for a in sys.argv[1:] if not a.isdigit()] or ["mobilenet_v2", "resnet50", "efficientnet_lite2"]
    rounds = next((int(a) for a in sys.argv[1:] if a.isdigit()), 15)
    print(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, openvino {openvino.__version__}, "
        f"{THREADS} threads, {rounds} rounds"
    )
    touchline = Touchline()
    print("| network | precision | batch | Touchline | peer | ratio |\n|---|---|---|---|---|---|")
    for name in wanted:
        model, side = network(name)
        for batch in [1, 5, 8]:
            x = torch.randn(batch, 3, side, side)
            exported = onnx(model, x)
            with torch.inference_mode():
                expected = model(x).numpy()
                peers = [
                    ("f32", "ONNX Runtime", onnx_runtime(exported, x)),
                    ("f32", "OpenVINO", open_vino(exported, x, "f32")),
                    ("f32", "PyTorch", lambda: model(x).numpy()),
                    ("bf16", "OpenVINO", open_vino(exported, x, "bf16")),
                ]
                with tempfile.TemporaryDirectory() as folder:
                    quantised = int8(exported, x, folder)
                # Quantised layers run in int8, the others in f32.
                peers.append(("int8", "OpenVINO", open_vino(quantised, x, "f32")))
                peers.append(("int8", "ONNX Runtime", onnx_runtime(quantised, x)))
                for precision, peer, run in peers:
                    difference = np.abs(run() - expected).max()
                    # The weights are untrained, so the size of the logits varies and reduced precision needs a wide
                    # tolerance.
                    allowed = 1e-3 if precision == "f32" else 0.5 * max(1, np.abs(expected).max())
                    assert difference < allowed, (peer, precision, difference, allowed)
                    ours, theirs = [], []
                    for _ in range(rounds):
                        theirs.append(best_ms(run))
                        # A peer's idle threads spin for a while, and would take a processor from Touchline.
                        time.sleep(0.1)
                        ours.append(touchline.best_ms(name, precision, batch))
                    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
                    a, b = statistics.median(ours), statistics.median(theirs)
                    print(
                        f"| {name} | {precision} | {batch} | {a:.2f} ms | {peer} {b:.2f} ms | {ratio:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
