"""Writes resize.json and resize.rgb8: Pillow's BILINEAR resize of generated pictures.

Pictures are bytes of an integer generator, so that the Rust test can generate the same ones. `box` is the resized part
of the picture (left, top, right, bottom). The results are stored one after the other, packed RGB8.

Made with Python 3.11, numpy 2.4.6, Pillow 13.0.0. Run in this directory: python resize.py
"""

import json

import numpy as np
from PIL import Image


def picture(width, height, seed):
    out, state = np.empty(width * height * 3, np.uint8), seed
    for i in range(out.size):
        state = (state * 1664525 + 1013904223) % 2**32
        out[i] = state >> 24
    return out.reshape(height, width, 3)


SIZES = [
    ((97, 65), (40, 31)), ((40, 30), (97, 65)), ((97, 65), (40, 131)), ((1, 1), (7, 5)), ((300, 1), (16, 16)),
    ((1, 300), (33, 7)), ((223, 127), (112, 64)), ((61, 47), (224, 3)), ((320, 180), (1, 1)), ((640, 9), (64, 64)),
    ((50, 50), (50, 50)), ((2, 3), (5, 7)),
]


def main():
    table, data = [], []
    for seed, (source, target) in enumerate(SIZES, start=1):
        whole = (0.0, 0.0, float(source[0]), float(source[1]))
        # Fit::Crop: the largest centred part with the target's aspect ratio.
        scale = max(target[0] / source[0], target[1] / source[1])
        shown = (min(target[0] / scale, source[0]), min(target[1] / scale, source[1]))
        left, top = (source[0] - shown[0]) / 2, (source[1] - shown[1]) / 2
        crop = (left, top, left + shown[0], top + shown[1])
        for fit, box in (("stretch", whole), ("crop", crop)):
            resized = Image.fromarray(picture(*source, seed)).resize(target, Image.Resampling.BILINEAR, box=box)
            offset = sum(d.size for d in data)
            data.append(np.asarray(resized))
            table.append(dict(source=source, target=target, seed=seed, fit=fit, offset=offset))
    np.concatenate([d.reshape(-1) for d in data]).tofile("resize.rgb8")
    with open("resize.json", "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(case) for case in table) + "\n]\n")


main()
