"""Times soxr (the resampler of librosa) and SciPy on the signal of benches/resample.rs.

Needs numpy, scipy and soxr. Prints the speed as a multiple of real time, median of the runs, one thread:

    python benches/peers/resample.py
"""

import math
import statistics
import time

import numpy as np
import scipy
import scipy.signal
import soxr

SECONDS = 60
PIECE = 1024
RUNS = 15


def noise(length):
    # Uniform in -1..1. The time does not depend on the values, as long as they are not silence.
    return np.random.default_rng(1).uniform(-1, 1, length).astype(np.float32)


def timed(work):
    work()
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def soxr_pieces(signal, rate_in, rate_out):
    stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32", quality="HQ")
    for at in range(0, len(signal), PIECE):
        stream.resample_chunk(signal[at : at + PIECE], last=at + PIECE >= len(signal))


def scipy_whole(signal, rate_in, rate_out):
    divisor = math.gcd(rate_in, rate_out)
    scipy.signal.resample_poly(signal, rate_out // divisor, rate_in // divisor)


def main():
    print(f"soxr {soxr.__version__}, scipy {scipy.__version__}, numpy {np.__version__}; {SECONDS} s of mono noise")
    for rate_in, rate_out in [(44_100, 16_000), (48_000, 16_000), (48_000, 32_000), (44_101, 16_000)]:
        signal = noise(rate_in * SECONDS)
        peers = {
            "soxr HQ, whole": lambda: soxr.resample(signal, rate_in, rate_out, quality="HQ"),
            f"soxr HQ, pieces of {PIECE}": lambda: soxr_pieces(signal, rate_in, rate_out),
            "scipy resample_poly, whole": lambda: scipy_whole(signal, rate_in, rate_out),
        }
        for name, work in peers.items():
            print(f"{rate_in} -> {rate_out}  {name:28s} {SECONDS / timed(work):8.0f} x real time")


if __name__ == "__main__":
    main()
