"""`ecdctr monitor` on a real Kafka: killed and started again, it tells what one look tells."""

import contextlib
import signal
import threading

import numpy as np
import pytest
from kafka import TopicPartition
from log_support import SCHEMA as LOG_SCHEMA
from log_support import START_MS, write_log
from monitor_support import BEGIN, Counting, MonitorHome, Trainer, columns_of
from tests_support import eventually, run_ecdctr
from trainer_support import fresh_topics

from config import Config
from monitoring.monitor_process import monitor
from monitoring.monitor_settings import MonitorConfig
from monitoring.sampled_rows import Predicted
from monitoring.window import measure
from streaming import kafka_clients
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter

BATCHES = 100  # of 100 predictions, 10 s each
COUNTED_ANEW = ("monitor_checkpoint", "monitor_event_time")


@pytest.fixture
def own_topics(kafka):
    own = fresh_topics()  # event times are years ago
    create_topics(kafka, own)
    return own


@pytest.fixture
def trainer(kafka, own_topics):
    made = Trainer(kafka, own_topics)
    yield made
    made.close()


@pytest.fixture
def home(nursery, kafka, own_topics, tmp_path):
    made = MonitorHome(nursery, kafka, own_topics, tmp_path / "run")
    yield made
    made.close()


def measured(columns, own):
    rows = [columns[name][own] for name in ("event_time", "user", "click", "probability")]
    rows = Predicted(*rows, columns["version"][own])
    order = np.lexsort((rows.click, rows.probability, rows.user))
    return measure(rows.user[order], rows.click[order], rows.probability[order])


def test_killed_again_and_again_it_tells_what_one_look_tells(
    nursery, kafka, own_topics, trainer, home, tmp_path
):
    done = trainer.predict(range(30))
    trainer.publish(10)
    home.start().wait("predictions_total", 3_000, level="actr")
    home.stop(signal.SIGKILL)
    done += trainer.predict(range(30, 60))
    trainer.publish(20)
    trainer.publish(40)
    home.start().wait("predictions_total", 6_000, level="actr")
    trainer.junk()
    trainer.predict(range(50, 60))  # the trainer goes back to its checkpoint
    done += trainer.predict(range(60, BATCHES))
    home.wait("predictions_total", 100 * BATCHES, level="actr")
    home.stop(signal.SIGKILL)
    await_all(home.start())
    told = numbers(home)

    whole = MonitorHome(nursery, kafka, own_topics, tmp_path / "whole").start()
    try:
        await_all(whole)
        assert numbers(whole) == told
    finally:
        assert whole.stop() == 0
    assert_right(home, columns_of(done))


def await_all(home):
    """Until it has read all that the trainer said; announcements are in a topic of their own."""
    home.wait("predictions_total", 100 * BATCHES, level="actr")
    for topic in (home.topics.predictions_of("actr"), home.topics.models_of("actr")):
        home.wait("lag_records", 0, topic=topic)


def numbers(home):
    """All that is told but for what is of the process itself."""
    return {
        (s.name, *sorted(s.labels.items())): s.value
        for s in home.samples()
        if not s.name.startswith(COUNTED_ANEW)
    }


def assert_right(home, columns):
    """Against the predictions themselves."""
    newest = int(columns["event_time"].max())
    for label, length in (("1m", 60_000), ("5m", 300_000)):
        end = newest // length * length
        inside = (columns["event_time"] >= end - length) & (columns["event_time"] < end)
        expected = measured(columns, inside)
        at = {"level": "actr", "window": label}
        assert home.value("window_end_seconds", **at) == end / 1_000
        assert home.value("window_impressions", **at) == inside.sum() > 0
        assert home.value("gauc_ratio", **at) == expected.gauc
        assert home.value("copc_ratio", **at) == expected.copc
        assert home.value("normalized_entropy_ratio", **at) == expected.normalized_entropy
        assert home.value("gauc_groups", state="skipped", **at) == expected.groups_skipped > 0
        assert home.value("gauc_defined", **at) == 1
    bounds = [10, 20, 40, 10**9]
    for version, before in zip(bounds[:-1], bounds[1:], strict=True):
        own = (columns["version"] >= version) & (columns["version"] < before)
        at = {"level": "actr", "version": str(version)}
        assert home.value("generation_impressions", **at) == own.sum()
        assert home.value("generation_copc_ratio", **at) == measured(columns, own).copc
    assert home.value("generation_impressions", level="actr", version="0") is None
    assert home.value("repeated_predictions_total", level="actr") == 1_000
    assert home.value("unreadable_records_total", topic=home.topics.predictions_of("actr")) == 1
    assert home.value("published_version", level="actr") == 40
    assert home.value("published_timestamp_seconds", level="actr") == BEGIN / 1_000 + 10
    # Each batch is four records, appended at BEGIN, learnt 2 s and published 10 s later.
    assert home.value("learnt_seconds_count", level="actr") == 4 * BATCHES
    assert home.value("learnt_seconds_sum", level="actr") == 2 * 4 * BATCHES
    assert home.value("published_seconds_count", level="actr") == 4 * 40
    assert home.value("published_seconds_bucket", level="actr", le="10.0") == 4 * 40
    assert home.value("predictions_total", level="cpm") == 0


def test_a_page_for_people_and_the_report(trainer, home):
    trainer.publish(10)
    trainer.predict(range(BATCHES))
    trainer.publish(40)
    home.start().wait("predictions_total", 100 * BATCHES, level="actr")
    home.wait("published_version", 40, level="actr")  # of another topic
    page = home.fetch("/")
    assert "actr" in page and "<svg" in page and "Worst calibrated" in page
    assert home.fetch("/healthz") == "ok\n"
    assert home.stop() == 0
    done = home.once("--report")
    assert done.end() == 0, done.said()
    told = done.printed()
    assert "<- worst" in told and told.startswith("Worst calibrated: version")


def test_a_damaged_checkpoint_is_set_aside_and_the_logs_read_again(trainer, home):
    trainer.predict(range(20))
    home.start().wait("predictions_total", 2_000, level="actr")
    assert home.stop() == 0
    path = home.run_dir / "monitor" / "checkpoint"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    home.start().wait("predictions_total", 2_000, level="actr")
    assert "does not match its checksum" in home.said() and "set aside as" in home.said()
    assert len(list(path.parent.glob("damaged-*"))) == 1


def test_no_monitor_has_been_here(tmp_path):
    done = run_ecdctr("monitor", "--report", "--run-dir", str(tmp_path))
    assert done.returncode == 2 and "start 'ecdctr monitor'" in done.stderr


def test_what_retention_removed_is_told_and_passed_over(kafka, own_topics, trainer, home):
    trainer.predict(range(10))
    home.start().wait("predictions_total", 1_000, level="actr")
    assert home.stop() == 0
    trainer.predict(range(10, 20))
    topic = own_topics.predictions_of("actr")
    with contextlib.closing(kafka_clients.admin(kafka)) as client:
        client.delete_records({TopicPartition(topic, p): 15 for p in range(4)})
    trainer.predict(range(20, 30))
    home.start().wait("predictions_total", 2_500, level="actr")
    assert home.value("lost_records_total", topic=topic) == 20
    assert "are gone" in home.said()


def test_other_windows_are_refused_with_the_way_out(trainer, home):
    trainer.predict(range(10))
    home.start().wait("predictions_total", 1_000, level="actr")
    assert home.stop() == 0
    done = home.once("--set", "monitor.windows_seconds=[30]")
    assert done.end() == 2 and "monitor.windows_seconds = [60, 300]" in done.said()


def test_one_monitor_a_run_directory(home):
    home.start()
    done = home.once()
    assert done.end() == 2 and "'monitor' already runs" in done.said()


def test_observers_get_every_impression_once(kafka, own_topics, trainer, tmp_path):
    config = Config(
        run_dir=tmp_path, kafka=kafka, topics=own_topics, impressions=LOG_SCHEMA,
        monitor=MonitorConfig(windows_seconds=(60,), checkpoint_every_seconds=0.1),
    )  # fmt: skip
    with RecordWriter(kafka) as writer:
        write_log(writer, own_topics.ad, 0, records=20, rows=10)
        trainer.predict(range(10))
        assert watched_until(config, ad=200, actr=1_000).counts["natural"] == 0
        write_log(writer, own_topics.ad, 200, records=10, rows=10)
        write_log(writer, own_topics.natural, 0, records=10, rows=10)
        watching = watched_until(config, ad=300, natural=100)
    assert watching.counts["actr"] == 1_000
    assert watching.watermarks["ad"] == START_MS + 10 * 299


def watched_until(config, **counts):
    """An observer of a monitor that ran until it had seen so much, and stopped in order."""
    watching, stopping = Counting(), threading.Event()
    thread = threading.Thread(target=monitor, args=(config, stopping, lambda _: [watching]))
    thread.start()
    try:
        eventually(
            lambda: all(watching.counts[name] == n for name, n in counts.items()),
            60,
            f"{counts}, not {watching.counts}",
        )
    finally:
        stopping.set()
        thread.join(30)
    assert not thread.is_alive()
    return watching
