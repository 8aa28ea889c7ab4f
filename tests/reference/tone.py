"""Prints the reference numbers of the tests in src/media/tone.rs. Needs only the standard library: `python3 tone.py`.

The script follows the recommendations in floating point: ITU-R BT.2100-2 (PQ, HLG and its OOTF for 1000 cd/m2),
BT.2390-10 section 5.4.1 (EETF from 0..1000 to 0..203 cd/m2, on each channel), BT.2087-0 (BT.2020 to BT.709), BT.1886
(gamma 2.4, black 0).
"""

import math

WHITE, PEAK = 203.0, 1000.0
M1, M2 = 2610 / 16384, 2523 / 4096 * 128
C1, C2, C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def pq_eotf(code):
    power = code ** (1 / M2)
    return 10000 * (max(power - C1, 0) / (C2 - C3 * power)) ** (1 / M1)


def pq_inverse(light):
    power = (light / 10000) ** M1
    return ((C1 + C2 * power) / (1 + C3 * power)) ** M2


def hlg_inverse_oetf(code):
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return code * code / 3 if code <= 0.5 else (math.exp((code - c) / a) + b) / 12


def eetf(light):
    """Light of a display of 203 cd/m2, as a multiple of its white."""
    source = pq_inverse(PEAK)
    e1 = min(pq_inverse(light) / source, 1)
    top = pq_inverse(WHITE) / source
    knee = 1.5 * top - 0.5
    if e1 >= knee:
        t = (e1 - knee) / (1 - knee)
        e1 = (
            (2 * t**3 - 3 * t**2 + 1) * knee
            + (t**3 - 2 * t**2 + t) * (1 - knee)
            + (-2 * t**3 + 3 * t**2) * top
        )
    return pq_eotf(e1 * source) / WHITE


def bt709(rgb):
    rows = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
    return [sum(part * value for part, value in zip(row, rgb)) for row in rows]


def sdr(rgb):
    return [round(255 * min(max(value, 0), 1) ** (1 / 2.4)) for value in rgb]


def from_pq(code):
    return sdr(bt709([eetf(pq_eotf(value / 65535)) for value in code]))


def from_hlg(code):
    scene = [hlg_inverse_oetf(value / 65535) for value in code]
    luminance = 0.2627 * scene[0] + 0.6780 * scene[1] + 0.0593 * scene[2]
    return sdr(bt709([eetf(PEAK * luminance**0.2 * value) for value in scene]))


CODES = [
    (0, 0, 0), (6553, 6553, 6553), (16383, 16383, 16383), (24000, 24000, 24000), (32767, 32767, 32767),
    (38010, 38010, 38010), (49151, 49151, 49151), (65535, 65535, 65535),
    (36000, 22000, 15000), (28000, 34700, 20700), (19400, 13700, 38000), (41000, 30000, 30500), (9000, 12000, 14000),
]

for code in CODES:
    print(f"({list(code)}, {from_pq(code)}, {from_hlg(code)}),")
