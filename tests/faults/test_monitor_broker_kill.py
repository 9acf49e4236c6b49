"""The monitor waits for a broker that is away, says so once, and stops in order meanwhile."""

import pytest
from monitor_support import MonitorHome, Trainer
from tests_support import eventually
from trainer_support import fresh_topics

from streaming.embedded_kafka import EmbeddedKafka
from streaming.topic_admin import create_topics


@pytest.mark.timeout(180)
def test_it_goes_on_when_the_broker_is_back(nursery, tmp_path):
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        topics = fresh_topics()
        create_topics(broker.config, topics)
        trainer = Trainer(broker.config, topics)
        trainer.predict(range(10))
        home = MonitorHome(nursery, broker.config, topics, tmp_path / "run").start()
        try:
            home.wait("predictions_total", 1_000, level="actr")
            broker.kill()
            eventually(lambda: "is away" in home.fetch("/"), 60, "word of it on the page")
            assert home.fetch("/healthz") == "ok\n"
            broker.restart()
            trainer.predict(range(10, 20))
            home.wait("predictions_total", 2_000, level="actr")
            eventually(lambda: "is away" not in home.fetch("/"), 60, "the page is content again")
            assert home.value("repeated_predictions_total", level="actr") == 0
            assert home.said().count("connection to Kafka is lost") == 1
            broker.kill()
            eventually(lambda: "is away" in home.fetch("/"), 60, "word of it on the page")
            assert home.stop() == 0
        finally:
            home.close()
            trainer.close()
