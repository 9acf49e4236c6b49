"""Randomness that depends on names and numbers only, never on what was drawn before.

Two kinds: a generator for every (seed, stream, slot), for what happens in a
slot; and hashes of an entity's number, for what an entity is. So any slot of a
market can be made alone, and any entity looked up alone.
"""

from __future__ import annotations

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK63 = np.uint64((1 << 63) - 1)


def generator(seed: int, name: str, slot: int = 0) -> np.random.Generator:
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode()), slot])
    return np.random.Generator(np.random.Philox(sequence))


def key_of(seed: int, name: str) -> np.uint64:
    """A hash key of its own for everything that is called something else."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    return np.uint64(sequence.generate_state(1, np.uint64)[0])


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64, a bijection of 64-bit words (Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def spread63(serial: np.ndarray, key: np.uint64) -> np.ndarray:
    """A bijection of 0 .. 2**63 - 1: serial numbers become ids that look like any."""
    x = (serial.astype(np.uint64) + key) & _MASK63
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        x = ((x ^ (x >> np.uint64(32))) * np.uint64(multiplier)) & _MASK63
    return (x ^ (x >> np.uint64(32))).astype(np.int64)


def _hashes(key: np.uint64, ids: np.ndarray, width: int) -> np.ndarray:
    base = mix64(ids.astype(np.uint64) * _GOLDEN + key)
    steps = np.arange(1, width + 1, dtype=np.uint64) * _GOLDEN
    return mix64(base[:, None] + steps)


def uniforms(key: np.uint64, ids: np.ndarray) -> np.ndarray:
    """float64 [N] in [0, 1)."""
    return (_hashes(key, ids, 1)[:, 0] >> np.uint64(11)) * 2.0**-53


def normals(key: np.uint64, ids: np.ndarray, width: int) -> np.ndarray:
    """float32 [N, width], standard normal (Box and Muller, two of every hash)."""
    words = _hashes(key, ids, (width + 1) // 2)
    high = (words >> np.uint64(32)).astype(np.float32)
    low = (words & np.uint64(0xFFFFFFFF)).astype(np.float32)
    radius = np.sqrt(-2 * np.log((high + np.float32(1)) * np.float32(2.0**-32)))
    angle = low * np.float32(2 * np.pi * 2.0**-32)
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return both[:, :width]


def zipf_ranks(uniform: np.ndarray, count: int, exponent: float) -> np.ndarray:
    """int64 ranks below ``count``, rank r with weight about (r + 1)**-exponent.

    The inverse of the distribution function of the density (x + 1)**-exponent
    on [0, count): no table, so millions of ranks cost nothing to set up.
    """
    if exponent == 0:
        x = uniform * count
    elif exponent == 1:
        x = np.expm1(uniform * np.log1p(count))
    else:
        power = 1.0 - exponent
        x = (1.0 + uniform * ((1.0 + count) ** power - 1.0)) ** (1.0 / power) - 1.0
    return np.minimum(x.astype(np.int64), count - 1)
