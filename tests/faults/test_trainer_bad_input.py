"""10,000 damaged records among 100,000 good impressions, through the whole trainer."""

from __future__ import annotations

from collections import Counter

import pytest
from damage_support import write_damaged_log
from trainer_support import BATCH, SETTINGS, Home, dead_letters_of, predictions_of

from streaming.writer import RecordWriter

GOOD, DAMAGED = 100_000, 10_000


@pytest.mark.timeout(180)
def test_every_good_row_is_learnt_and_every_bad_one_is_a_dead_letter(
    nursery, mortal_kafka, own_topics, tmp_path
):
    settings = SETTINGS.replace(f"batch_size = {BATCH}", "batch_size = 2048").replace(
        "prefetch_rows = 2000", "prefetch_rows = 20000"
    )
    home = Home(nursery, mortal_kafka.config, own_topics, tmp_path, settings)
    with RecordWriter(home.kafka) as writer:
        bad_rows = write_damaged_log(writer, own_topics.ad, GOOD, DAMAGED)
    life = home.finish()
    assert not life.complaints()
    assert home.newest().progress.impressions == GOOD
    found = predictions_of(home.kafka, own_topics)
    assert found.impression_N.tolist() == list(range(GOOD)) and found.repeated == 0
    letters = dead_letters_of(home.kafka, own_topics)
    assert len(letters) == DAMAGED + bad_rows
    assert len({(letter.partition, letter.offset) for letter in letters}) == len(letters)
    reasons = Counter(letter.reason.value for letter in letters)
    assert len(reasons) == 9 and reasons["bad-click"] == bad_rows + DAMAGED // 10
