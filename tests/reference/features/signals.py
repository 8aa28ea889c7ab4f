"""Makes signals.json and bars.rle: what FFmpeg's blackdetect, freezedetect and silencedetect say of generated pictures and
sounds, and the colour bars of its generators, damaged as transport damages them, with pictures that are nearly bars.

Pictures and sounds come from an integer generator, so the Rust test makes the same. FFmpeg gets the luminance (full range) for
black, the channels for freeze, and the samples for silence.

Made with Python 3.11 (the standard library is enough) and FFmpeg 5.1.9. Run in this directory: python3 signals.py
"""

import json
import re
import struct
import subprocess

WIDTH, HEIGHT, FPS, RATE = 40, 30, 25, 16000
BARS = (128, 72)


class Generator:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state * 1664525 + 1013904223) % 2**32
        return self.state >> 8


def picture(shot, frame):
    """RGB of one frame of a shot: values in low..=high, some bright pixels, and noise that differs from frame to frame."""
    values, noise = Generator(shot["seed"] + frame * shot["moving"]), Generator(77 + frame)
    out = bytearray()
    for pixel in range(WIDTH * HEIGHT):
        bright = pixel < shot["bright"]
        for _ in range(3):
            value = shot["low"] + values.next() % (shot["high"] - shot["low"] + 1)
            value = 200 if bright else value
            # One value in `noise` is one higher.
            if shot["noise"] and noise.next() % shot["noise"] == 0:
                value += 1
            out.append(min(value, 255))
    return bytes(out)


def luma(rgb):
    return bytes((77 * rgb[i] + 150 * rgb[i + 1] + 29 * rgb[i + 2] + 128) >> 8 for i in range(0, len(rgb), 3))


def planes(rgb):
    return rgb[1::3] + rgb[2::3] + rgb[0::3]


def run(args, data):
    command = ["ffmpeg", "-hide_banner", "-nostats", *args, "-f", "null", "-"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stderr.decode()


def spans(log, begin, end):
    """Pairs of begin and end, seconds."""
    begins, ends = (re.findall(name + r"[:=] ?(-?[\d.]+)", log) for name in (begin, end))
    assert len(begins) == len(ends), log
    return [[float(b), float(e)] for b, e in zip(begins, ends)]


def video(pixels):
    return ["-f", "rawvideo", "-pixel_format", pixels, "-video_size", f"{WIDTH}x{HEIGHT}", "-framerate", str(FPS), "-i", "-"]


SHOT = dict(frames=30, seed=1, moving=0, low=60, high=200, bright=0, noise=0)
DARK = SHOT | dict(low=0, high=24, frames=60)
PIXELS = WIDTH * HEIGHT
BLACK = [
    # (threshold, share, seconds, shots)
    (0.10, 0.98, 2.0, [SHOT, DARK, SHOT, DARK | dict(frames=49), SHOT, DARK | dict(frames=50, moving=1), SHOT]),
    (0.10, 0.98, 1.0, [SHOT, DARK | dict(bright=PIXELS // 50), SHOT, DARK | dict(bright=PIXELS // 50 + 1), SHOT]),
    (0.10, 0.98, 1.0, [SHOT, DARK | dict(high=25), SHOT, DARK | dict(low=26, high=27), SHOT, DARK | dict(low=24, high=26), SHOT]),
    (0.20, 0.90, 0.5, [DARK | dict(high=60), SHOT, DARK | dict(high=48), SHOT, DARK | dict(bright=PIXELS // 10), SHOT]),
    (0.00, 1.00, 1.0, [SHOT, DARK | dict(high=0), SHOT, DARK | dict(high=0, bright=1), SHOT]),
]
STILL = SHOT | dict(frames=60)
MOVING = SHOT | dict(moving=13, seed=500)
FREEZE = [
    (-60, 2.0, [MOVING, STILL, MOVING, STILL | dict(frames=50), MOVING, STILL | dict(frames=51, seed=9), MOVING]),
    # Noise just below and just above a thousandth of 256.
    (-60, 2.0, [MOVING, STILL | dict(noise=8), MOVING, STILL | dict(noise=6), MOVING, STILL | dict(noise=9), MOVING]),
    (-50, 1.0, [MOVING, STILL | dict(noise=2), STILL | dict(noise=2, seed=9), MOVING]),
    (-60, 1.0, [DARK, STILL | dict(seed=3), DARK | dict(seed=5), MOVING]),
]

LOUD = dict(samples=8000, peak=0.5)
QUIET = dict(samples=40000, peak=0.0009)
SILENCE = [
    # (level in dB, seconds, pieces)
    (-60, 2.0, [LOUD, QUIET, LOUD, QUIET | dict(samples=31000), LOUD, QUIET | dict(peak=0.0), LOUD]),
    (-60, 1.0, [LOUD, QUIET | dict(peak=0.0011), LOUD, QUIET | dict(samples=16000), LOUD]),
    (-40, 0.5, [QUIET, LOUD, QUIET | dict(peak=0.0099, samples=8123), LOUD, QUIET | dict(peak=0.0101), LOUD]),
]


def sound(piece, seed):
    values = Generator(seed)
    return [piece["peak"] * (values.next() % 2001 - 1000) / 1000 for _ in range(piece["samples"])]


def black(case):
    threshold, share, seconds, shots = case
    data = b"".join(luma(picture(shot, n)) + b"\x80" * (2 * PIXELS) for shot in shots for n in range(shot["frames"]))
    log = run([*video("yuvj444p"), "-vf", f"blackdetect=d={seconds}:pic_th={share}:pix_th={threshold}"], data)
    return dict(luma=threshold, share=share, seconds=seconds, shots=shots, spans=spans(log, "black_start", "black_end"))


def freeze(case):
    db, seconds, shots = case
    data = b"".join(planes(picture(shot, n)) for shot in shots for n in range(shot["frames"]))
    log = run([*video("gbrp"), "-vf", f"freezedetect=n={db}dB:d={seconds}"], data)
    return dict(db=db, seconds=seconds, shots=shots, spans=spans(log, "freeze_start", "freeze_end"))


def silence(case):
    db, seconds, pieces = case
    samples = [value for n, piece in enumerate(pieces) for value in sound(piece, n)]
    data = struct.pack(f"<{len(samples)}f", *samples)
    log = run(["-f", "f32le", "-ar", str(RATE), "-ac", "1", "-i", "-", "-af", f"silencedetect=n={db}dB:d={seconds}"], data)
    return dict(db=db, seconds=seconds, pieces=pieces, spans=spans(log, "silence_start", "silence_end"))


TEXT = "drawbox=x=100:y=150:w=800:h=110:color=black:t=fill,drawbox=x=130:y=170:w=600:h=70:color=white:t=fill"
FRAMED = "pad=1280:720:(ow-iw)/2:(oh-ih)/2"
DAMAGE = dict(
    plain="null",
    text=TEXT,
    moving="drawbox=x=300:y=0:w=60:h=720:color=white:t=fill",
    letterbox="scale=1280:530," + FRAMED,
    pillarbox="scale=960:720," + FRAMED,
    framed="scale=640:360," + FRAMED,
    scrolled="scroll=hpos=0.3",
    noisy="noise=alls=40:allf=t",
    pale="eq=saturation=0.7",
    blurred="gblur=8",
    matrix="scale=out_color_matrix=bt601,format=yuv420p,scale=in_color_matrix=bt709",
    range="scale=out_range=limited,format=yuv420p,scale=in_range=full",
)


def striped(colours, vertical=True):
    """Equal stripes of colours."""
    count = len(colours)
    boxes = []
    for n, colour in enumerate(colours):
        if vertical:
            boxes.append(f"drawbox=x={n}*iw/{count}:y=0:w=iw/{count}+1:h=ih:color={colour}:t=fill")
        else:
            boxes.append(f"drawbox=x=0:y={n}*ih/{count}:w=iw:h=ih/{count}+1:color={colour}:t=fill")
    return ",".join(boxes)


BAR_COLOURS = ["0xbfbf00", "0x00bfbf", "0x00bf00", "0xbf00bf", "0xbf0000", "0x0000bf"]
OTHERS = {
    "rainbow": ("color=black", striped(["red", "0xff8000", "yellow", "0x00ff00", "cyan", "blue", "magenta"])),
    "rainbow backwards": ("color=black", striped(["magenta", "blue", "cyan", "0x00ff00", "yellow", "red"])),
    "flag": ("color=black", striped(["0x0000bf", "white", "0xbf0000"])),
    "flag of four": ("color=black", striped(["0xbfbf00", "0x00bf00", "0xbf0000", "0x0000bf"])),
    "shirt": ("color=black", striped(["0xbf0000", "white"] * 5)),
    "shirt of two colours": ("color=black", striped(["0xbfbf00", "0x0000bf"] * 4)),
    "bars lying": ("color=black", striped(BAR_COLOURS, vertical=False)),
    "five bars": ("color=black", striped(BAR_COLOURS[:5] + ["white"])),
    "two bars changed": ("color=black", striped(["0xbfbf00", "0x00bf00", "0x00bfbf", "0xbf00bf", "0xbf0000", "0x0000bf"])),
    "advert board": ("color=0x206020", "drawbox=x=0:y=300:w=1280:h=120:color=white:t=fill," + ",".join(
        f"drawbox=x={200 * n}:y=300:w=200:h=120:color={c}:t=fill" for n, c in enumerate(BAR_COLOURS))),
    "bars on a wall": ("color=0x808080", ",".join(
        f"drawbox=x={300 + 80 * n}:y=200:w=80:h=300:color={c}:t=fill" for n, c in enumerate(BAR_COLOURS))),
    "unequal bars": ("color=black", ",".join(
        f"drawbox=x={x}:y=0:w={w}:h=720:color={c}:t=fill" for (x, w), c in zip(
            [(0, 100), (100, 400), (500, 80), (580, 350), (930, 100), (1030, 250)], BAR_COLOURS))),
    "testsrc": ("testsrc", "null"),
    "testsrc2": ("testsrc2", "null"),
    "rgbtestsrc": ("rgbtestsrc", "null"),
    "spectrum": ("colorspectrum", "null"),
}


def packed(picture, width):
    """Rows as runs of pixels: 0 for a row that equals the one above, else runs of (length 1..=255, r, g, b)."""
    out, above = bytearray(), None
    for start in range(0, len(picture), 3 * width):
        row = picture[start : start + 3 * width]
        if row == above:
            out.append(0)
            continue
        above, at = row, 0
        while at < len(row):
            pixel, length = row[at : at + 3], 1
            while length < 255 and row[at + 3 * length : at + 3 * length + 3] == pixel:
                length += 1
            out += bytes([length]) + pixel
            at += 3 * length
    return bytes(out)


def bars():
    cases, data = [], b""

    def add(name, source, damage, is_bars):
        nonlocal data
        size = ":".join(map(str, BARS))
        source += (":" if "=" in source else "=") + "size=1280x720:rate=1:duration=1"
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-vf", f"{damage},scale={size}:flags=area,format=rgb24"]
        picture = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=True).stdout
        assert len(picture) == 3 * BARS[0] * BARS[1], name
        cases.append(dict(name=name, is_bars=is_bars))
        data += packed(picture, BARS[0])

    for source in ("smptebars", "smptehdbars", "pal75bars", "pal100bars"):
        for name, damage in DAMAGE.items():
            # Noise packs badly: once is enough.
            if name == "noisy" and source != "smptehdbars":
                continue
            add(f"{source} {name}", source, damage, True)
        add(f"{source} small in the picture", source, "scale=400:225," + FRAMED, False)
    for name, (source, damage) in OTHERS.items():
        add(name, source, damage, False)
    return dict(width=BARS[0], height=BARS[1], cases=cases), data


if __name__ == "__main__":
    table, data = bars()
    whole = dict(width=WIDTH, height=HEIGHT, fps=FPS, rate=RATE, black=[black(c) for c in BLACK], freeze=[freeze(c) for c in FREEZE],
                 silence=[silence(c) for c in SILENCE], bars=table)
    with open("signals.json", "w") as file:
        json.dump(whole, file, indent=1)
        file.write("\n")
    with open("bars.rle", "wb") as file:
        file.write(data)
    for kind in ("black", "freeze", "silence"):
        print(kind, [case["spans"] for case in whole[kind]])
