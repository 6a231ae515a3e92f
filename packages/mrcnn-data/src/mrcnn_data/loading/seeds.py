"""Stateless random numbers: one seed per (run seed, epoch, image), the same on every thread and rank.

The mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
2014).
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_2 = np.uint64(0x94D049BB133111EB)
# Each purpose draws from its own stream, so that switching one augmentation on does not change the draws of the others.
_TURN_STREAM = 1
COLOUR_STREAM = 2
PASTE_STREAM = 3
PASTED_COLOUR_STREAM = 4


def sample_seeds(seed: int, epochs: np.ndarray, image_indices: np.ndarray) -> np.ndarray:
    """Hash (seed, epoch, image index): int64 [n], int64 [n] -> int32 [n, 2]."""
    state = _mix(np.full(np.shape(image_indices), seed, np.int64).view(np.uint64))
    state = _mix(state ^ np.asarray(epochs, np.int64).view(np.uint64))
    state = _mix(state ^ np.asarray(image_indices, np.int64).view(np.uint64))
    return np.stack([state & np.uint64(0xFFFFFFFF), state >> np.uint64(32)], axis=-1).astype(np.uint32).view(np.int32)


def quarter_turns(seeds: np.ndarray, probability: float) -> np.ndarray:
    """Draw 0 to 3 quarter turns, equally likely, with this probability; else 0: int32 [n, 2] -> int64 [n].

    The turns do not come from a sample's generator: the sampler needs them for a whole epoch, to find the buckets.
    """
    if probability == 0:  # the usual case; saves 0.04 ms per image
        return np.zeros(len(seeds), np.int64)
    words = seeds.view(np.uint32).astype(np.uint64)
    state = _mix(words[:, 0] ^ (words[:, 1] << np.uint64(32)) ^ _mix(np.uint64(_TURN_STREAM)))
    turns = (state & np.uint64(3)).astype(np.int64)
    uniform = (state >> np.uint64(11)).astype(np.float64) / 2.0**53
    return np.where(uniform < probability, turns, 0)


def generator(sample_seed: np.ndarray, *streams: int) -> np.random.Generator:
    """Make a generator for one sample from its seed, int32 [2]; `streams` are small numbers."""
    low, high = sample_seed.view(np.uint32).tolist()
    entropy = low | high << 32
    for place, stream in enumerate(streams):
        entropy |= (stream + 1) << (64 + 8 * place)
    return np.random.Generator(np.random.PCG64(entropy))  # one number: seeding with a list takes 8 times as long


def _mix(state: np.ndarray | np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = state + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * _FACTOR_1
        state = (state ^ (state >> np.uint64(27))) * _FACTOR_2
        return np.asarray(state ^ (state >> np.uint64(31)))
