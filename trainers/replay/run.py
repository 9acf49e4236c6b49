"""A replay: every variant over the same log; what is done already is not done again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from config import Config
from trainers.replay.ads import AdRun, Advance, Nothing
from trainers.replay.forgetting import Periods, Samples, samples_of
from trainers.replay.log import AD, RecordedLog
from trainers.replay.plan import Variant, fingerprint, levels
from trainers.replay.results import Outcome, load_outcome, save_outcome


class Show(Protocol):
    """Who looks on."""

    def began(self, what: str, impressions: int) -> Advance: ...

    def ended(self, what: str, known: bool) -> None: ...


class Replay:
    """``config`` is what all variants share; each lays its own settings over it."""

    def __init__(self, log: RecordedLog, config: Config, out: Path, show: Show) -> None:
        self.log, self.config, self.out, self.show = log, config, out, show
        self.periods = Periods(log.start, log.end, config.replay.periods)
        self._samples: Samples | None = None

    def outcome(self, variant: Variant) -> Outcome:
        """Run ``variant``, or read what an earlier run left of it.

        Raises:
            UserError: the log or the variant's settings do not do, or the model diverged.
        """
        config = variant.applied(self.config)
        folder = self.out / "variants" / f"{_slug(variant.name)}-{self._key(variant, config)}"
        found = load_outcome(folder)
        if found is None:
            found = self._run(variant, config)
            save_outcome(found, folder)
            self.show.ended(variant.name, known=False)
        else:
            self.show.ended(variant.name, known=True)
        return found

    def _run(self, variant: Variant, config: Config) -> Outcome:
        total = sum(self.log.spans[domain].rows for domain in variant.learns)
        run = AdRun(variant, config, self.log, self.samples(), self.periods, Nothing())
        return run.run(self.show.began(variant.name, total))

    def samples(self) -> Samples:
        """Of held-back ads, the same for all variants."""
        if self._samples is None:
            share = self.config.replay.held_back
            ads = self.log.stretches((AD,))
            self._samples = samples_of(ads, self.periods, share, self.log.schema)
        return self._samples

    def _key(self, variant: Variant, config: Config) -> str:
        """Of all that decides the variant's predictions."""
        how = {
            name: getattr(config.replay, name) for name in ("periods", "held_back", "partitions")
        }
        names = levels(config)
        parts = [getattr(config, name) for name in names]
        if "tpm" in names:
            parts.append(config.history)
        what = [variant.learns, variant.by_domain, how, parts]
        return fingerprint(what, config.impressions, self.log.identity)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
