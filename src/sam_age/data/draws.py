"""Random numbers for many faces at once, each a function of (seed, epoch, number) alone, as numpy draws them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def chances(seed: int, epochs: Sequence[int], numbers: np.ndarray) -> np.ndarray:
    """The first number that `default_rng([seed, epoch, number])` draws for each face, (N,) in [0, 1): all at once, as
    making a generator takes 24 us, and the draws of 256 faces as long as a step of a small network.

    Args:
        epochs, numbers: N each, below 2**32.

    Sources: numpy's SeedSequence (O'Neill 2015, "Developing a seed_seq Alternative") and PCG64 (O'Neill 2014, XSL RR
    128/64); numpy keeps both as they are.

    >>> bool(chances(3, [1], np.array([2]))[0] == np.random.default_rng([3, 1, 2]).random())
    True
    """
    if not len(numbers):
        return np.empty(0)
    words = [np.full(len(numbers), word, np.uint32) for word in _words(seed)]
    words += [np.asarray(epochs).astype(np.uint32), np.asarray(numbers).astype(np.uint32)]
    return np.array([_first(*state) for state in _states(words).tolist()])


def _words(number: int) -> list[int]:
    """A whole number in words of 32 bits, the lowest first; of 0 one."""
    return [number >> shift & 0xFFFFFFFF for shift in range(0, max(1, number.bit_length()), 32)]


def _states(entropy: list[np.ndarray]) -> np.ndarray:
    """SeedSequence(entropy).generate_state(4, uint64) of N entropies: words of (N,) uint32 -> (N, 4) uint64."""
    constant = 0x43B0D7E5

    def scatter(value: np.ndarray, factor: int) -> np.ndarray:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * factor & 0xFFFFFFFF
        value = value * np.uint32(constant)
        return value ^ value >> np.uint32(16)

    def mixed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        other = scatter(other, 0x931E8875)
        result = one * np.uint32(0xCA01F9DD) - other * np.uint32(0x4973F715)
        return result ^ result >> np.uint32(16)

    nothing = np.zeros_like(entropy[0])
    pool = [scatter(word, 0x931E8875) for word in (entropy + 4 * [nothing])[:4]]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = mixed(pool[target], pool[source])
    for word in entropy[4:]:
        pool = [mixed(part, word) for part in pool]
    constant = 0x8B51F9DD
    halves = np.stack([scatter(pool[place % 4], 0x58F38DED) for place in range(8)], 1).astype(np.uint64)
    return halves[:, 0::2] | halves[:, 1::2] << np.uint64(32)


def _first(*state: int) -> float:
    """The first number in [0, 1) of a PCG64 that begins with these four 64-bit words."""
    factor, all_bits = 0x2360ED051FC65DA44385DF649FCCF645, (1 << 128) - 1
    odd = ((state[2] << 64 | state[3]) << 1 | 1) & all_bits
    now = odd + (state[0] << 64 | state[1])
    now = (now * factor + odd) * factor + odd & all_bits
    turn, word = now >> 122, (now >> 64 ^ now) & 0xFFFFFFFFFFFFFFFF
    turned = (word >> turn | word << 64 - turn) & 0xFFFFFFFFFFFFFFFF
    return (turned >> 11) * 2.0**-53
