"""The peer of MobileCLIP in benches/models.rs: the picture towers of MobileCLIP-S0, -S1 and -S2 at 256x256 in PyTorch (timm), one picture each.
The branches of training are merged in both. In each round, Touchline and PyTorch run a few passes each, so that both run under the same
conditions. The ratio of a round is Touchline's best time divided by PyTorch's; the script prints the median over the rounds.

    cargo bench --bench models --no-run                     # prints the path of the program
    python benches/peers/mobileclip.py PROGRAM [ROUNDS]     # needs torch and timm

At the end it prints the time of each layer of S0.
"""

import os
import statistics
import subprocess
import sys
import time

import timm
import torch
from timm.utils import reparameterize_model

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


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    environment = {**os.environ, "RAYON_NUM_THREADS": str(THREADS)}
    command = [sys.argv[1], "--mobileclip"]
    touchline = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    print(f"torch {torch.__version__}, timm {timm.__version__}, {THREADS} threads, {rounds} rounds")
    print("| network | Touchline | PyTorch | ratio |\n|---|---|---|---|")
    x = torch.randn(1, 3, 256, 256)
    for size in range(3):
        model = reparameterize_model(timm.create_model(f"fastvit_mci{size}", num_classes=512).eval())
        ours, theirs = [], []
        with torch.inference_mode():
            for _ in range(rounds):
                theirs.append(best_ms(lambda: model(x)))
                # Idle threads spin for a while, and would take a processor from Touchline.
                time.sleep(0.1)
                touchline.stdin.write(f"mobileclip_s{size} f32 1 {RUNS}\n")
                touchline.stdin.flush()
                ours.append(float(touchline.stdout.readline()))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs))
        a, b = statistics.median(ours), statistics.median(theirs)
        print(f"| mobileclip_s{size} | {a:.1f} ms | {b:.1f} ms | {ratio:.2f} |", flush=True)
    touchline.stdin.close()
    print(touchline.stdout.read())


if __name__ == "__main__":
    main()
