"""The stream of pictures: any rank, any start, the same order."""

from itertools import islice

import pytest

from sam_age.data.sampler import Counting, InOrder, ShuffledStream

SHAPES = [{}, {"blocks": [3, 0, 4, 1, 5], "window": 2}]


def take(count, **settings):
    return list(islice(ShuffledStream(13, **settings), count))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_picture_comes_once_an_epoch_in_another_order_each(shape):
    epochs = [take(39, **shape)[start : start + 13] for start in (0, 13, 26)]
    for number, epoch in enumerate(epochs):
        assert {e for e, _ in epoch} == {number}
        assert sorted(index for _, index in epoch) == list(range(13))
    assert len({tuple(index for _, index in epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_together_are_the_stream_of_one(shape, world):
    ranks = [take(12, rank=rank, world=world, **shape) for rank in range(world)]
    assert [key for keys in zip(*ranks, strict=True) for key in keys] == take(12 * world, **shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("start", [1, 12, 13, 20])
def test_a_start_in_the_middle_is_the_tail_of_the_whole(shape, start):
    assert take(15, start=start, **shape) == take(15 + start, **shape)[start:]


def test_another_seed_is_another_order():
    assert take(13, seed=1) != take(13, seed=0)


def test_shards_mix_within_their_window_only():
    """With a window of two, pictures of at most two shards lie among each other."""
    blocks = [10] * 6
    order = ShuffledStream(60, blocks=blocks, window=2).order(0)
    shards = [{int(index) // 10 for index in order[start : start + 20]} for start in (0, 20, 40)]
    assert all(len(pair) == 2 for pair in shards)
    assert set.union(*shards) == set(range(6))
    first = [int(index) // 10 for index in order[:20]]
    assert first != sorted(first)
    assert first != sorted(first, reverse=True)


def test_validation_is_in_order_and_shared_out():
    parts = [list(InOrder(7, rank=rank, world=2)) for rank in (0, 1)]
    assert parts == [[(0, 0), (0, 2), (0, 4), (0, 6)], [(0, 1), (0, 3), (0, 5)]]
    assert [len(InOrder(7, rank=rank, world=2)) for rank in (0, 1)] == [4, 3]


@pytest.mark.parametrize("bad", [{"length": 0}, {"length": 3, "rank": 2, "world": 2}, {"length": 3, "blocks": [1]}])
def test_a_stream_of_nothing_is_refused(bad):
    with pytest.raises(ValueError, match=r"nothing|Rank 2|blocks hold 1"):
        ShuffledStream(bad.pop("length"), **bad)


def test_a_source_without_end_is_taken_in_its_order_by_all_ranks_from_any_position():
    ranks = [list(islice(Counting(rank=rank, world=3, start=lambda: 10**9), 4)) for rank in range(3)]
    together = [index for turn in zip(*ranks, strict=True) for _, index in turn]
    assert together == list(range(10**9, 10**9 + 12))
