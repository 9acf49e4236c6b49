"""A replay: every variant over the same log; what is done already is not done again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from config import Config
from trainers.replay.ads import AdRun, Upstream
from trainers.replay.forgetting import Periods, Samples, samples_of
from trainers.replay.histories import Histories
from trainers.replay.level_run import Advance
from trainers.replay.log import AD, NATURAL, RecordedLog
from trainers.replay.plan import Variant, fingerprint, levels
from trainers.replay.results import Outcome, load_outcome, save_outcome
from trainers.replay.stages import Stage, load_stage, run_cpm, run_tpm


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
        folder = self.folder(variant, "actr")
        found = load_outcome(folder)
        if found is not None:
            self.show.ended(variant.name, known=True)
            return found
        found = self._run(variant, variant.applied(self.config))
        save_outcome(found, folder)
        self.show.ended(variant.name, known=False)
        return found

    def run_piece(self, variant: Variant, level: str) -> None:
        """Leave what ``level`` does for ``variant`` on disk."""
        config = variant.applied(self.config)
        if level == "tpm":
            self._tpm(variant, config)
        elif level == "cpm":
            self._cpm(variant, config)
        else:
            self.outcome(variant)

    def folder(self, variant: Variant, level: str) -> Path:
        """Where that is; named after all that decides it."""
        config = variant.applied(self.config)
        key = self._fingerprint(config, _parts(variant, config, level))
        if level == "actr":
            return self.out / "variants" / f"{_slug(variant.name)}-{key}"
        return self.out / "stages" / f"{level}-{key}"

    def _run(self, variant: Variant, config: Config) -> Outcome:
        total = sum(self.log.spans[domain].rows for domain in variant.learns)
        upstream, spent = Upstream(), {}
        if "tpm" in levels(config):
            tpm = self._tpm(variant, config)
            spent["tpm"] = tpm.spent
            if config.actr.history:
                upstream = replace(upstream, histories=self._histories(tpm, config))
        if "cpm" in levels(config):
            cpm = self._cpm(variant, config)
            spent["cpm"] = cpm.spent
            upstream = replace(upstream, hand_downs=cpm.hand_downs)
        run = AdRun(variant, config, self.log, self.samples(), self.periods, upstream)
        outcome = run.run(self.show.began(variant.name, total))
        return replace(outcome, spent=spent | outcome.spent)

    def _tpm(self, variant: Variant, config: Config) -> Stage:
        folder = self.folder(variant, "tpm")
        return self._stage(folder, lambda done: run_tpm(self.log, config, folder, done))

    def _cpm(self, variant: Variant, config: Config) -> Stage:
        folder, histories = self.folder(variant, "cpm"), None
        if config.cpm.history:
            histories = self._histories(self._tpm(variant, config), config)
        return self._stage(folder, lambda done: run_cpm(self.log, config, histories, folder, done))

    def _stage(self, folder: Path, run: Callable[[Advance], None]) -> Stage:
        found = load_stage(folder)
        if found is None:
            run(self.show.began(folder.name, self.log.spans[NATURAL].rows))
            found = load_stage(folder)
            assert found is not None
            self.show.ended(folder.name, known=False)
        return found

    def _histories(self, tpm: Stage, config: Config) -> Histories:
        dim = config.tpm.model.dim
        return Histories(tpm.folder, config.history, dim, config.impressions)

    def samples(self) -> Samples:
        """Of held-back ads, the same for all variants."""
        if self._samples is None:
            share = self.config.replay.held_back
            ads = self.log.stretches((AD,))
            self._samples = samples_of(ads, self.periods, share, self.log.schema)
        return self._samples

    def _fingerprint(self, config: Config, parts: list[Any]) -> str:
        return fingerprint(parts, config.replay.partitions, config.impressions, self.log.identity)


def _parts(variant: Variant, config: Config, level: str) -> list[Any]:
    """All that decides what ``level`` leaves behind for ``variant``, the log aside."""
    if level == "tpm":
        # How its snapshots are combined is no business of TPM's.
        return [level, config.tpm, config.history.period_ms, config.history.buckets]
    if level == "cpm":
        histories = [config.tpm, config.history] if config.cpm.history else []
        return [level, config.cpm, config.actr.transfer == "reinitialize", histories]
    names = levels(config)
    histories = [config.history] if "tpm" in names else []
    size = config.cpm.batch_size if variant.learns != (AD,) else 0
    how = [config.replay.periods, config.replay.held_back, size]
    above = [getattr(config, name) for name in names]
    return [variant.learns, variant.by_domain, how, above, histories]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
