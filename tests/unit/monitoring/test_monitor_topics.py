"""How much one turn of the monitor takes of a topic."""

from types import SimpleNamespace

from monitor_support import SCHEMA

from monitoring.ledger import Ledger
from monitoring.monitor_settings import MonitorConfig
from monitoring.monitor_topics import TopicReader


class Backlog:
    """A consumer that always has as many records as it is asked for."""

    def __init__(self):
        self.asked = []

    def poll(self, max_records, watermark, timeout_ms):
        self.asked.append(max_records)
        return [(0, [SimpleNamespace(offset=n) for n in range(max_records)])], []


def asked_for(*seconds_a_record):
    """What is asked for poll by poll where taking a record takes so long."""
    backlog, ledger, now = Backlog(), Ledger(MonitorConfig(), ("actr",), SCHEMA), [0.0]
    reader = TopicReader(backlog, "predictions", None, lambda: now[0])
    for seconds in seconds_a_record:

        def take(partition, records, end, seconds=seconds):
            now[0] += seconds * len(records)

        reader.take = take
        assert reader.poll(ledger) == backlog.asked[-1]
    return backlog.asked


def test_records_that_take_long_are_taken_few_at_a_time():
    assert asked_for(1 / 64, 1 / 64, 1 / 32, 1 / 64) == [500, 12, 12, 6]


def test_quick_records_are_taken_many_at_a_time_again():
    assert asked_for(1 / 16, 2**-16, 2**-16) == [500, 3, 500]


def test_at_least_one_record_is_taken():
    assert asked_for(60, 60) == [500, 1]
