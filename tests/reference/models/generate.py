"""Values that a test can reproduce bit for bit from a name: an integer hash of name and index, scaled.

tests/common/reference.rs computes the same values in Rust. All arithmetic is on 32-bit integers or on doubles without
fused operations, and is rounded to single precision once at the end, so both languages give the same bits.
"""

import math

import numpy as np


def uniform(name, shape, low, high):
    seed = 0x811C9DC5  # FNV-1a
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    h = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(seed)
    h ^= h >> np.uint32(16)  # the finaliser of MurmurHash3
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    unit = (h >> np.uint32(8)).astype(np.float64) / 2.0**24
    return (low + (high - low) * unit).astype(np.float32).reshape(shape)


def parameter(name, shape):
    """A weight, scaled to keep activations near 1 through the whole network."""
    if len(shape) == 4:
        bound = math.sqrt(6.0 / math.prod(shape[1:]))
        # The last convolution of a residual branch: sixteen full branches would add up to huge values.
        if name.endswith("conv3.weight"):
            bound *= 0.25
        return uniform(name, shape, -bound, bound)
    if len(shape) == 2:
        bound = 0.35 * math.sqrt(3.0 / shape[1])
        return uniform(name, shape, -bound, bound)
    if name.endswith(".running_var") or name.endswith(".weight"):
        return uniform(name, shape, 0.5, 1.5)
    return uniform(name, shape, -0.25, 0.25)
