"""Random numbers by name and by index: what other machines must draw too, and how they are spread."""

import hashlib
import math

import torch

from sam_age.lifespan.dice import Dice, normals, uniforms


def test_a_number_is_the_hash_of_its_name():
    digest = hashlib.blake2b(b"person/7/nose", digest_size=8).digest()
    assert Dice("person", 7).uniform("nose") == (int.from_bytes(digest, "big") + 0.5) / 2**64


def test_a_new_name_moves_no_other():
    dice = Dice(3)
    before = dice.uniform("nose")
    dice.uniform("ears")
    assert dice.uniform("nose") == before


def test_parts_have_names_of_their_own():
    assert Dice(1).of("head").uniform("size") != Dice(1).of("hair").uniform("size")


def test_choices_have_their_weights():
    drawn = [Dice(k).choice("x", "abc", (1, 2, 7)) for k in range(4000)]
    for option, share in zip("abc", (0.1, 0.2, 0.7), strict=True):
        assert abs(drawn.count(option) / 4000 - share) < 4 * math.sqrt(share * (1 - share) / 4000)


def _murmur_finaliser(x: int) -> int:
    """The published one, in Python's whole numbers, which cannot overflow."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_many_numbers_are_murmur_hashes_of_seed_index_and_stream():
    seed, index, stream = 2**31 - 1, 123_456_789, 1003
    word = _murmur_finaliser((seed + 0x9E3779B9 * (stream + 1)) % 2**32)
    word = _murmur_finaliser(word ^ _murmur_finaliser((index + 0x7F4A7C15) % 2**32))
    assert float(uniforms(torch.tensor(seed), torch.tensor(index), stream)) == (word >> 8) / 2**24


def test_uniforms_are_even_and_their_streams_unrelated():
    index = torch.arange(200_000)
    a, b = uniforms(torch.tensor(5), index, 0), uniforms(torch.tensor(5), index, 1)
    counts = torch.histc(a, 20, 0, 1)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 45  # chi-squared, 19 degrees: 1 in 1000
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.01
    assert a.min() >= 0
    assert a.max() < 1


def test_normals_have_the_moments_of_a_normal():
    x = normals(torch.tensor(9), torch.arange(200_000), 3).double()
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.1
