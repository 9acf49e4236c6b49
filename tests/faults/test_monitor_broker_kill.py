"""The monitor waits for a broker that is away, says so once, and stops in order meanwhile."""

import pytest
from monitor_support import MonitorHome, Trainer
from tests_support import eventually
from trainer_support import fresh_topics

from streaming.topic_admin import create_topics


@pytest.mark.timeout(180)
def test_it_goes_on_when_the_broker_is_back(nursery, mortal_kafka, tmp_path):
    kafka, topics = mortal_kafka.config, fresh_topics()
    create_topics(kafka, topics)
    trainer = Trainer(kafka, topics)
    trainer.predict(range(10))
    home = MonitorHome(nursery, kafka, topics, tmp_path / "run").start()
    try:
        home.wait("predictions_total", 1_000, level="actr")
        mortal_kafka.kill()
        eventually(lambda: "is away" in home.fetch("/"), 60, "word of it on the page")
        assert home.fetch("/healthz") == "ok\n"
        mortal_kafka.restart()
        trainer.predict(range(10, 20))
        home.wait("predictions_total", 2_000, level="actr")
        eventually(lambda: "is away" not in home.fetch("/"), 60, "the page is content again")
        assert home.value("repeated_predictions_total", level="actr") == 0
        assert home.said().count("connection to Kafka is lost") == 1
        mortal_kafka.kill()
        eventually(lambda: "is away" in home.fetch("/"), 60, "word of it on the page")
        assert home.stop() == 0
    finally:
        mortal_kafka.restart()
        home.close()
        trainer.close()
