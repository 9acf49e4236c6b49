"""`ecdctr demo`: Kafka, market, all levels, refresher and monitor as processes, with a view."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from config import Config, configured
from errors import UserError
from monitoring.processes import MONITOR, page_of, running
from monitoring.scrape import watched
from monitoring.snapshot import FLOOR, ProcessState, Snapshot
from monitoring.status import Observer
from monitoring.targets import write_targets
from monitoring.verdict import other_levels, verdict
from monitoring.view import View, line
from settings import Loaded
from shutdown import stop_event
from streaming.kafka_clients import resolve, wait_for_broker
from streaming.topic_admin import create_topics
from supervisor import Child

DEMO_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "demo.toml"
MARKER = ".ecdctr-demo"
STOP_SECONDS = 30.0
KAFKA_SECONDS = 120
MONITOR_SECONDS = 30.0
OTHERS_SECONDS = 30.0
LINE_SECONDS = 5.0
MESSAGE_SECONDS = 15.0

Show = Callable[[Snapshot], None]


@click.command("demo")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.1, max=60),
    default=3.5,
    show_default=True,
    help="How long the market's impressions are streamed; sets their rate.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the last demo's data instead of starting anew."
)
@configured(default=DEMO_CONFIG)
def command(loaded: Loaded[Config], minutes: float, resume: bool) -> None:
    """Stream a synthetic market through a real Kafka and train all three levels on it, live.

    Ends by itself a minute after the stream at the latest, with a summary; exit status 0
    says that the model beat the floor, 1 that it did not. Kill any of its processes
    meanwhile: it is started again and goes on where it was. Ctrl-C stops everything.
    """
    logging.disable(logging.WARNING)  # the view says what matters; it must not be torn
    if "run_dir" not in loaded.origins:
        flag = "--set=run_dir=run/demo"
        config = loaded.config.model_copy(update={"run_dir": Path("run/demo")})
        loaded = Loaded(config, loaded.origins, (*loaded.arguments, flag))
    try:
        sys.exit(Demo(loaded, minutes).run(resume))
    finally:
        logging.disable(logging.NOTSET)


class Demo:
    """The processes of one demo, what is shown of them, and how they end."""

    def __init__(self, loaded: Loaded[Config], minutes: float) -> None:
        self.config = loaded.config
        self.seconds = minutes * 60
        self.console = Console()
        self.stopping = stop_event()
        self._message, self._message_until = "", 0.0
        market = self.config.market
        self.ads = market.days * market.ads_per_day
        rate = market.days * (market.natural_per_day + market.ads_per_day) / self.seconds
        self.kafka = self._child("kafka", loaded, "kafka")
        self.market = self._child("simulate", loaded, "simulate", f"--rate={rate}", finite=True)
        # They import TorchRec while Kafka starts.
        wait = f"--set=kafka.start_wait_seconds={KAFKA_SECONDS}"
        self.trainer = self._child("train-actr", loaded, "train", "actr", wait)
        self.others = [
            self._child("train-cpm", loaded, "train", "cpm", wait),
            self._child("train-tpm", loaded, "train", "tpm", wait),
            self._child("refresher", loaded, "refresh", wait),
        ]
        self.monitor = self._child(MONITOR, loaded, "monitor", wait)
        self._resuming = _resuming(minutes, loaded.arguments)
        # In the order of stopping.
        self.children = [self.market, self.trainer, *self.others, self.monitor, self.kafka]

    def _child(self, name: str, loaded: Loaded[Config], *words: str, finite: bool = False) -> Child:
        log = self.config.run_dir / "logs" / f"{name}.log"
        command = [sys.executable, "-m", "cli", *words, *loaded.arguments]
        return Child(name, command, log, finite=finite)

    def run(self, resume: bool) -> int:
        """Returns the exit status: 0, 1 (the floor was not beaten), 130 (interrupted)."""
        self._clear(resume)
        try:
            with closing(Observer(self.config)) as observer:
                if not self._start():
                    return 130
                with self._shown() as show:
                    over = self._watch(observer, show)
                if not over:
                    self._say(f"stopping; '{self._resuming}' goes on from here")
                    return 130
                return self._conclude(observer)
        finally:
            self._stop()

    # -- before -----------------------------------------------------------------------

    def _clear(self, resume: bool) -> None:
        folder = self.config.run_dir
        if alive := [p.name for p in running(folder) if p.alive]:
            raise UserError(f"{', '.join(alive)} still running in {folder}; stop that demo first")
        if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
            raise UserError(
                f"{folder} holds something that is not a demo's; choose another --run-dir"
            )
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()

    def _start(self) -> bool:
        if not self.config.kafka.bootstrap_servers:
            self._say("starting Kafka (43 MB are fetched the first time) and A-CTR")
            self.kafka.start()
        self.trainer.start()
        while not self.stopping.is_set():
            if self._kafka_answers():
                self._say(
                    "starting the market; A-CTR imports TorchRec meanwhile, the others follow"
                )
                self.market.start()
                self.monitor.start()
                return True
            self._tend()
            self.stopping.wait(0.2)
        return False

    def _kafka_answers(self) -> bool:
        try:
            kafka = resolve(self.config.kafka, self.config.run_dir)
            wait_for_broker(kafka, timeout=1)
            create_topics(kafka, self.config.topics)
        except UserError:
            if self.config.kafka.bootstrap_servers:
                raise
            return False
        return True

    def _say(self, words: str) -> None:
        self.console.print(f"demo: {words}", highlight=False, soft_wrap=True)

    # -- while it runs ----------------------------------------------------------------

    def _watch(self, observer: Observer, show: Show) -> bool:
        """Until everything is learnt, or time is up; False when interrupted."""
        deadline = time.monotonic() + self.seconds + 60
        while not self.stopping.is_set() and time.monotonic() < deadline:
            self._tend()
            observer.follow()
            snapshot = observer.snapshot(self._current_message())
            self._start_others(snapshot)
            write_targets(self.config.run_dir)
            show(self._with_children(snapshot))
            if self.market.done and self._all_learnt(observer):
                break
            self.stopping.wait(0.5)
        return not self.stopping.is_set()

    def _start_others(self, snapshot: Snapshot) -> None:
        """Once A-CTR runs: importing TorchRec side by side would make all of them late."""
        name, waited = self.trainer.name, time.monotonic() - self.trainer.started_at
        up = any(p.name == name and p.state == "running" for p in snapshot.processes)
        if up or waited > OTHERS_SECONDS:
            for child in self.others:
                if child.process is None:
                    child.start()

    def _with_children(self, snapshot: Snapshot) -> Snapshot:
        """Children that did not register, or not yet: Kafka, and who still imports."""
        coming = {child.name for child in self.children if child.running}
        shown = [p for p in snapshot.processes if p.state != "dead" or p.name not in coming]
        known = {process.name for process in shown}
        more = [self._state(child) for child in self.children if child.name not in known]
        return replace(snapshot, processes=(*shown, *filter(None, more)))

    def _state(self, child: Child) -> ProcessState | None:
        if child.process is None:
            return None
        state = "done" if child.done else "running" if child.running else "dead"
        if state == "running" and child is not self.kafka:
            state = "starting"
        return ProcessState(child.name, state, time.monotonic() - child.started_at)

    def _tend(self) -> None:
        for child in self.children:
            process = child.process
            # At its first start that is a mistake of the user's; later, Kafka may be away.
            if process is not None and process.poll() == 2 and not child.restarts:
                raise UserError(f"{child.name} cannot run: {child.last_words()}")
            if event := child.tend():
                self._message = event
                self._message_until = time.monotonic() + MESSAGE_SECONDS

    def _current_message(self) -> str:
        if time.monotonic() < self._message_until:
            return self._message
        page = page_of(self.config.run_dir)
        return f"Kill any process and watch. Ctrl-C stops everything.{page and f' Page: {page}'}"

    def _all_learnt(self, observer: Observer) -> bool:
        """All but what does not fill a batch, which a live trainer keeps waiting for."""
        follower = observer.follower
        waiting = self.config.actr.batch_size
        return follower is not None and follower.impressions > self.ads - waiting

    @contextmanager
    def _shown(self) -> Iterator[Show]:
        if not self.console.is_terminal:
            yield self._line_now_and_then()
            return
        with Live(console=self.console, screen=True, auto_refresh=False) as live:
            yield lambda snapshot: live.update(View(snapshot), refresh=True)

    def _line_now_and_then(self) -> Show:
        due = 0.0
        said = ""

        def show(snapshot: Snapshot) -> None:
            nonlocal due, said
            news = snapshot.message != said
            if time.monotonic() >= due or news:
                due, said = time.monotonic() + LINE_SECONDS, snapshot.message
                click.echo(line(snapshot))

        return show

    # -- after ------------------------------------------------------------------------

    def _conclude(self, observer: Observer) -> int:
        """Stop the writers, read all predictions, sum up."""
        others = other_levels(observer.snapshot())
        self.market.stop(STOP_SECONDS)
        self.trainer.stop(STOP_SECONDS)
        follower = observer.finish_reading(STOP_SECONDS)
        snapshot = observer.snapshot()
        if follower is not None:
            self._wait_for_monitor(follower.impressions)
        if self.console.is_terminal:
            self.console.print(View(snapshot))
        if follower is None or follower.impressions == 0:
            self._say(f"nothing was predicted; see {self.trainer.log}")
            return 1
        forgetting = self.config.actr.forgetting
        words, beaten = verdict(
            follower.metrics(),
            follower.interval(),
            FLOOR,
            written=self.ads,
            learnt=follower.impressions,
            repeated=follower.repeated,
            batch=self.config.actr.batch_size,
            held_back=forgetting.share * forgetting.user_share,
        )
        for sentence in [*words, *others]:
            self._say(sentence)
        restarts = sum(child.restarts for child in self.children)
        self._say(f"{restarts} restarts; logs and checkpoints in {self.config.run_dir}")
        self._say(
            "which version is worst calibrated, and since when: "
            f"{_typed()} monitor --report --run-dir {self.config.run_dir}"
        )
        return 0 if beaten else 1

    def _wait_for_monitor(self, predictions: int) -> None:
        """Until it has read all of A-CTR's, or for a while: it may be the slowest of all."""
        deadline = time.monotonic() + MONITOR_SECONDS
        said = False
        while self.monitor.running and not self.stopping.is_set():
            read = watched(self.config.run_dir, "actr")
            if read >= predictions:
                return
            if time.monotonic() > deadline:
                self._say(f"the monitor has read {read:,.0f} of {predictions:,} predictions")
                return
            if not said:
                self._say("waiting for the monitor")
                said = True
            self.stopping.wait(0.5)

    def _stop(self) -> None:
        for child in self.children:
            child.stop(STOP_SECONDS)
        if (self.config.run_dir / MARKER).exists():
            write_targets(self.config.run_dir)  # who was stopped is not missed


def _typed() -> str:
    """How people here call `ecdctr`: by its path, where it is not on theirs."""
    called = Path(sys.argv[0])
    known = called.name != "ecdctr" or shutil.which("ecdctr") == str(called.absolute())
    return "ecdctr" if known else str(called)


def _resuming(minutes: float, arguments: tuple[str, ...]) -> str:
    """What to type to go on from here, with the same configuration."""
    return shlex.join([_typed(), "demo", "--resume", f"--minutes={minutes:g}", *arguments])
