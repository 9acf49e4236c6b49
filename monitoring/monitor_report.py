"""`ecdctr monitor --report`: the published versions by calibration, in the terminal."""

from __future__ import annotations

import time

from config import Config
from errors import UserError
from monitoring import text
from monitoring.calibrated import EXPLAINED, HEADINGS, Calibrated, by_calibration, sentence
from monitoring.ledger import Ledger
from monitoring.monitor_checkpoint import NAME, DamagedState, read_state
from monitoring.monitor_process import state_dir
from monitoring.monitor_settings import MonitorConfig


def report_lines(config: Config) -> list[str]:
    """The answer in a sentence, and a table, worst calibrated first.

    Raises:
        UserError: no monitor has kept a checkpoint in the run directory, or it is damaged.
    """
    directory = state_dir(config.run_dir)
    try:
        found = read_state(directory)
        if found is None:
            raise UserError(
                f"no monitor has kept anything in {directory}: start 'ecdctr monitor' with the "
                "same --run-dir, or name another"
            )
        facts, arrays = found
        # As it was kept: whoever asks need not know with which settings.
        kept = MonitorConfig.model_validate(facts["config"])
        ledger = Ledger(kept, list(facts["levels"]), config.impressions)
        ledger.restore(facts, arrays)
    except (DamagedState, KeyError, ValueError, TypeError) as error:
        raise UserError(f"the checkpoint in {directory} cannot be read: {error}") from None
    age = time.time() - (directory / NAME).stat().st_mtime
    generations = {
        name: level.quality.quality().generations for name, level in ledger.levels.items()
    }
    ordered = by_calibration(generations)
    return [
        sentence(ordered),
        *_past_periods(ledger),
        "",
        f"Versions by calibration, as of {text.seconds(age)} ago (times in UTC; 'published' by the "
        "clock, the others event time):",
        *_table(ordered),
        EXPLAINED,
    ]


def _past_periods(ledger: Ledger) -> list[str]:
    """A line on each level that measures what it still knows."""
    return [
        f"{name}: backward transfer {text.change(found.backward_transfer)}, "
        f"forgetting {text.change(found.forgetting)}, over {max(0, len(found.gauc) - 1)} periods"
        for name, level in ledger.levels.items()
        if (found := level.recalled) is not None
    ]


def _table(ordered: list[Calibrated]) -> list[str]:
    rows = [HEADINGS, *(one.cells for one in ordered)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    marks = ["", *("<- worst" if one.worst else "" for one in ordered)]
    return [
        "  ".join((*map(str.rjust, row, widths), mark)).rstrip()
        for row, mark in zip(rows, marks, strict=True)
    ]
