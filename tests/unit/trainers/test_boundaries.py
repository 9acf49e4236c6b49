"""Several boundaries of the loop as one, on one rank and on two."""

from dataclasses import replace

from ranks_support import together, two_ranks
from recall_support import batch_of
from synthetic_stream import impressions

from trainers.boundaries import Boundaries
from trainers.ranks import Ranks


class Every:
    """A boundary that is due whenever the watermark is a multiple of ``step``."""

    def __init__(self, step):
        self.step, self.acted = step, []

    def due(self, batch):
        return batch.watermark % self.step == 0

    def act(self, batch):
        self.acted.append(None if batch is None else batch.watermark)
        return {f"every {self.step}": 1}


def test_each_boundary_acts_when_it_is_due():
    batch = batch_of(impressions(0, 4))
    twos, threes = Every(2), Every(3)
    boundaries = Boundaries([twos, threes], Ranks())
    told = {}
    for watermark in (1, 2, 3, 6):
        now = replace(batch, watermark=watermark)
        if boundaries.due(now):
            told[watermark] = boundaries.act(now)
    assert twos.acted == [2, 6] and threes.acted == [3, 6]
    assert told == {2: {"every 2": 1}, 3: {"every 3": 1}, 6: {"every 2": 1, "every 3": 1}}


def test_a_boundary_that_is_due_on_another_rank_acts_here_too_and_no_other():
    batch = batch_of(impressions(0, 4))
    made = [[Every(2), Every(3)] for _ in range(2)]
    both = [Boundaries(m, rank) for m, rank in zip(made, two_ranks(), strict=True)]
    assert both[1].due(replace(batch, watermark=3))
    assert both[0].due(replace(batch, watermark=2))
    now = replace(batch, watermark=2)
    together(lambda: both[0].act(now), lambda: both[1].act(None))
    assert [[b.acted for b in m] for m in made] == [[[2], [2]], [[None], [None]]]
    # The next turn: this rank was asked nothing since.
    assert both[0].due(now)
    together(lambda: both[0].act(now), lambda: both[1].act(None))
    assert [[len(b.acted) for b in m] for m in made] == [[2, 1], [2, 1]]
