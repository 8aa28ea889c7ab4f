"""Writes mel.json and mel.f32: librosa's mel power, log-mel and MFCC of generated sounds.

The sounds come from an integer generator and from sines, so that the Rust test can generate the same ones. librosa gets
f64 input and therefore runs in f64: in f32, the rounding noise of its FFT would dominate a quiet band next to a loud
tone. Images are stored as f32 little-endian, row-major, every `stride`-th column: mel power, decibels, then MFCC.

Made with Python 3.11, numpy 2.4.6, librosa 0.11.0. Run in this directory: python mel.py
"""

import json

import librosa
import numpy as np


def noise(count, seed):
    """Uniform in -1..1, exact in f32."""
    out, state = np.empty(count), seed
    for i in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out[i] = (state >> 8) / 2**23 - 1.0
    return out


def sound(kind, count, rate):
    t = np.arange(count, dtype=np.float64) / rate
    if kind == "noise":
        made = 0.5 * noise(count, 1)
    elif kind == "sweep":
        # 30 Hz to 0.45 of the rate in a second, over a little noise.
        rise = 0.45 * rate - 30.0
        made = 0.8 * np.sin(2.0 * np.pi * (30.0 * t + 0.5 * rise * t * t)) + 0.001 * noise(count, 2)
    elif kind == "pure":
        # A single tone: distant bands have almost no energy.
        made = 0.9 * np.sin(2.0 * np.pi * 0.06 * rate * t)
    else:
        # A tenth of a second of noise and a tenth of digital silence, alternating.
        made = np.where((t * 10.0).astype(np.int64) % 2 == 0, 0.7 * noise(count, 3), 0.0)
    return made.astype(np.float32)


def params(rate, n_fft, hop, bands, low, high, scale="slaney", floor=1e-10, top_db=80.0):
    return dict(sample_rate=rate, n_fft=n_fft, hop=hop, bands=bands, f_min=low, f_max=high, scale=scale, floor=floor,
                top_db=top_db)


CASES = [
    ("noise", 32000, 5, params(32000, 1024, 320, 128, 50.0, 14000.0)),
    ("sweep", 32000, 5, params(32000, 1024, 320, 128, 50.0, 14000.0)),
    ("sweep", 16000, 3, params(16000, 512, 161, 64, 0.0, 8000.0, "htk")),
    ("bursts", 16000, 3, params(16000, 400, 160, 64, 125.0, 7500.0, "slaney", 1e-10, None)),
    ("pure", 22050, 2, params(22050, 2048, 441, 128, 20.0, 11025.0)),
    ("noise", 2963, 1, params(8000, 256, 77, 40, 0.0, 4000.0)),
    ("bursts", 44100, 4, params(44100, 2048, 999, 128, 0.0, 22050.0, "htk", 1e-8, 100.0)),
    ("sweep", 48000, 4, params(48000, 1200, 1201, 80, 40.0, 20000.0)),
    ("noise", 100, 1, params(16000, 512, 160, 40, 20.0, 8000.0)),
]


def main():
    table, data = [], []
    for kind, count, stride, p in CASES:
        y = sound(kind, count, p["sample_rate"]).astype(np.float64)
        power = librosa.feature.melspectrogram(
            y=y, sr=p["sample_rate"], n_fft=p["n_fft"], hop_length=p["hop"], n_mels=p["bands"], fmin=p["f_min"],
            fmax=p["f_max"], htk=p["scale"] == "htk", center=True, pad_mode="constant", power=2.0)
        decibels = librosa.power_to_db(power, ref=1.0, amin=p["floor"], top_db=p["top_db"])
        mfcc = librosa.feature.mfcc(S=decibels, n_mfcc=33)
        offset = sum(d.size for d in data)
        data += [image[:, ::stride].astype("<f4") for image in (power, decibels, mfcc)]
        table.append(dict(kind=kind, samples=count, stride=stride, columns=power.shape[1], offset=offset, params=p))
    np.concatenate([d.reshape(-1) for d in data]).tofile("mel.f32")
    with open("mel.json", "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(case) for case in table) + "\n]\n")


main()
