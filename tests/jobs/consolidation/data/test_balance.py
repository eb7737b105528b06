"""How a pass is divided over workers."""

from random import Random

import pytest

from looper.jobs.consolidation.data.balance import divide_over_workers
from looper.jobs.consolidation.data.packing import packed_size
from looper.jobs.consolidation.data.window import Window


def window(rng: Random, length: int, beginning: int = 0) -> Window:
    tokens = [*range(beginning), *(100 + rng.randrange(10_000) for _ in range(length))]
    return Window.of(tokens, (0.0, *[1.0] * (len(tokens) - 1)))


def tokens_of(share: dict[int, list[Window]]) -> int:
    return sum(map(packed_size, share.values()))


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_every_window_goes_to_one_worker_and_all_have_about_as_many_tokens(workers: int) -> None:
    rng = Random(workers)
    part = {owner: [window(rng, rng.randrange(8, 200), 40) for _ in range(4)] for owner in range(16)}
    shares = divide_over_workers(part, {3, 5}, workers)
    assert len(shares) == workers
    for owner, windows in part.items():
        dealt = [each for share in shares for each in share.get(owner, [])]
        assert sorted(map(id, dealt)) == sorted(map(id, windows))
        if owner in (3, 5):
            assert sum(owner in share for share in shares) == 1
    sizes = list(map(tokens_of, shares))
    assert max(sizes) < 1.1 * sum(sizes) / workers, sizes


def test_many_workers_share_small_batches_of_many_owners() -> None:
    """With the windows dealt one by one in each batch, the last four of eight workers would get nothing."""
    rng = Random(0)
    shares = divide_over_workers({owner: [window(rng, 50) for _ in range(4)] for owner in range(4)}, (), 8)
    assert list(map(tokens_of, shares)) == [100] * 8


def test_windows_with_a_beginning_in_common_stay_together_where_that_saves_tokens() -> None:
    rng = Random(0)
    part = {owner: [window(rng, 10, 90), window(rng, 10, 90)] for owner in range(2)}
    assert [list(share) for share in divide_over_workers(part, (), 2)] == [[0], [1]]
