"""Times OpenCV, librosa, torchaudio and Pillow on the work of benches/features.rs, with the same sizes and parameters.

Run: python benches/peers/features.py   (numpy, opencv-python-headless, librosa, pillow, torch, torchaudio)
"""

import time

import cv2
import librosa
import numpy as np
import torch
from PIL import Image

# Recent releases of torchaudio refuse to load when they were built for another CUDA version than PyTorch. Here
# torchaudio only calls PyTorch's operations on the CPU, so the versions may differ.
torch.version.cuda = None
import torchaudio  # noqa: E402

cv2.setNumThreads(2)
torch.set_num_threads(2)


def texture(width, height, shift):
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x -= shift
    noise, state = np.empty(width * height), 1
    for i in range(noise.size):
        state = (state * 1664525 + 1013904223) % 2**32
        noise[i] = (state >> 24) / 16.0
    level = 110.0 + 50.0 * np.sin(0.21 * x + 0.08 * y) + 50.0 * np.sin(0.25 * y - 0.1 * x)
    return np.floor(level + noise.reshape(height, width)).astype(np.uint8)


def report(name, work, runs):
    for _ in range(3):
        work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    print(f"{name:45} median {np.median(times) * 1e3:8.3f} ms   fastest {min(times) * 1e3:8.3f} ms", flush=True)


def main():
    print(f"OpenCV {cv2.__version__}, librosa {librosa.__version__}, numpy {np.__version__}, "
          f"torchaudio {torchaudio.__version__}, torch {torch.__version__}")
    mean, std = np.float32(0.45), np.float32(0.225)
    for width, height in ((640, 360), (1280, 720)):
        gray = texture(width, height, 0.0)
        picture = np.ascontiguousarray(np.stack([gray, gray // 2, gray], axis=2))
        still = Image.fromarray(picture)

        def planar(resized):
            return np.ascontiguousarray(((resized.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1))

        def with_pillow():
            return planar(np.asarray(still.resize((224, 224), Image.Resampling.BILINEAR)))

        def with_opencv():
            return planar(cv2.resize(picture, (224, 224), interpolation=cv2.INTER_AREA))

        report(f"resize/picture-224x224/{width}x{height} Pillow", with_pillow, 100)
        report(f"resize/picture-224x224/{width}x{height} OpenCV area", with_opencv, 100)
    for width, height in ((224, 224), (640, 360)):
        first, second = texture(width, height, 0.0), texture(width, height, 2.0)
        for window, flags in (("box", 0), ("gaussian", cv2.OPTFLOW_FARNEBACK_GAUSSIAN)):
            flow = np.empty((height, width, 2), np.float32)

            def work(first=first, second=second, flow=flow, flags=flags):
                cv2.calcOpticalFlowFarneback(first, second, flow, 0.5, 3, 15, 3, 5, 1.2, flags)

            report(f"flow/{window}/{width}x{height}", work, 60)
    samples = np.random.default_rng(1).uniform(-1, 1, 32000).astype(np.float32)

    def mel():
        power = librosa.feature.melspectrogram(
            y=samples, sr=32000, n_fft=1024, hop_length=320, n_mels=128, fmin=50.0, fmax=14000.0, pad_mode="constant")
        return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=80.0)

    report("log-mel/1s-32kHz-128-bands librosa", mel, 300)
    spectrogram = torchaudio.transforms.MelSpectrogram(
        32000, 1024, hop_length=320, f_min=50.0, f_max=14000.0, n_mels=128, norm="slaney", mel_scale="slaney",
        pad_mode="constant")
    decibels = torchaudio.transforms.AmplitudeToDB("power", 80.0)
    waveform = torch.from_numpy(samples)
    with torch.inference_mode():
        difference = np.abs(decibels(spectrogram(waveform)).numpy() - mel()).max()
        assert difference < 0.01, f"torchaudio and librosa differ by {difference} dB: they do not do the same work"
        report("log-mel/1s-32kHz-128-bands torchaudio", lambda: decibels(spectrogram(waveform)), 300)


main()
