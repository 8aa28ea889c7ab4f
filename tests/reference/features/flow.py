"""Writes flow.json and flow_*.f32: OpenCV's dense Farnebäck flow of textured frames with known motion.

Frames are sums of sine waves whose parameters come from an integer generator, so that the Rust test can generate the
same frames (checked by a checksum). Only the flow is stored: every `stride`-th pixel in both directions, dx and dy
alternating, row-major, f32 little-endian.

Made with Python 3.11, numpy 2.4.6, opencv-python-headless 5.0.0.93. Run in this directory: python flow.py
"""

import json

import cv2
import numpy as np

WAVES = 24


def waves(seed):
    """(kx, ky, phase, amplitude) of each wave: from 6 to 60 pixels long, with larger amplitudes for longer ones."""
    state = seed

    def draw():
        nonlocal state
        state = (state * 1664525 + 1013904223) % 2**32
        return (state >> 8) / 2**24

    made = []
    for i in range(WAVES):
        length = 6.0 + 54.0 * i / (WAVES - 1)
        angle = 2.0 * np.pi * draw()
        phase = 2.0 * np.pi * draw()
        k = 2.0 * np.pi / length
        made.append((k * np.cos(angle), k * np.sin(angle), phase, 3.0 + 9.0 * i / (WAVES - 1)))
    return made


def frame(width, height, seed, motion):
    """The texture after `motion`: rotated by `angle` and scaled by `zoom` about the centre, then shifted."""
    ys, xs = np.meshgrid(np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64), indexing="ij")
    cx, cy = (width - 1) / 2.0, (height - 1) / 2.0
    x, y = xs - cx - motion["dx"], ys - cy - motion["dy"]
    c, s = np.cos(motion["angle"]) / motion["zoom"], np.sin(motion["angle"]) / motion["zoom"]
    u, v = c * x + s * y + cx, c * y - s * x + cy
    level = np.full((height, width), 128.0)
    for kx, ky, phase, amplitude in waves(seed):
        level = level + amplitude * np.sin(kx * u + ky * v + phase)
    return np.clip(np.floor(level + 0.5), 0, 255).astype(np.uint8)


def checksum(picture):
    flat = picture.reshape(-1).astype(np.int64)
    return int(((np.arange(flat.size) % 65521 + 1) * flat).sum())


STILL = dict(dx=0.0, dy=0.0, angle=0.0, zoom=1.0)
MOTIONS = {
    "shift": STILL | dict(dx=2.3, dy=-1.4),
    "far": STILL | dict(dx=-5.5, dy=3.75),
    "turn": STILL | dict(angle=0.03),
    "zoom": STILL | dict(zoom=1.04),
}
DEFAULT = dict(pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, gaussian=False)


def cases():
    for i, (gaussian, poly_n, levels) in enumerate((g, p, l) for g in (False, True) for p in (5, 7) for l in (1, 3, 5)):
        params = DEFAULT | dict(gaussian=gaussian, poly_n=poly_n, poly_sigma=1.1 if poly_n == 5 else 1.5, levels=levels)
        for motion in ("shift", "turn", "zoom"):
            yield 97, 65, 3, 1 + i, motion, params
        yield 223, 127, 4, 101 + i, ("far", "turn", "zoom", "shift")[i % 4], params
    for gaussian in (False, True):
        # A size large enough to split rows among threads; another pyramid; an even window; a size without a pyramid.
        yield 331, 211, 6, 201, "far", DEFAULT | dict(gaussian=gaussian)
        yield 331, 211, 6, 202, "turn", DEFAULT | dict(gaussian=gaussian, pyr_scale=0.7, levels=4, winsize=21)
        yield 223, 127, 4, 203, "shift", DEFAULT | dict(gaussian=gaussian, winsize=12, iterations=5)
        yield 41, 29, 1, 204, "shift", DEFAULT | dict(gaussian=gaussian)


def main():
    table, files = [], {}
    for width, height, stride, seed, motion, params in cases():
        first, second = frame(width, height, seed, STILL), frame(width, height, seed, MOTIONS[motion])
        arguments = {k: v for k, v in params.items() if k != "gaussian"}
        flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if params["gaussian"] else 0
        flow = cv2.calcOpticalFlowFarneback(first, second, None, **arguments, flags=flags)
        name = f"flow_{width}x{height}.f32"
        data = files.setdefault(name, [])
        offset = sum(d.size for d in data)
        data.append(flow[::stride, ::stride].astype("<f4"))
        table.append(
            dict(width=width, height=height, stride=stride, seed=seed, kind=motion, motion=MOTIONS[motion],
                 params=params, checksums=[checksum(first), checksum(second)], file=name, offset=offset)
        )
    for name, data in files.items():
        np.concatenate([d.reshape(-1) for d in data]).tofile(name)
    with open("flow.json", "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(case) for case in table) + "\n]\n")


main()
