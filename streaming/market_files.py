"""A market as Parquet files: one a slot and domain, each complete or absent.

<out>/market.json               the configuration, checked at every later run
<out>/natural/00000000.parquet
<out>/ad/00000000.parquet
<out>/truth/00000000.npy        true click probabilities
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from errors import UserError
from streaming.market import DOMAINS, Market, Slot
from streaming.market_config import MarketConfig
from streaming.truth import truth_dir, truth_path, write_truth

_DICTIONARY = ["segment", "category", "position", "hour", "user_age", "item_age"]
_QUEUED_SLOTS = 2


def slot_path(out: Path, domain: str, slot: int) -> Path:
    return out / domain / f"{slot:08d}.parquet"


def _complete(out: Path, slot: int) -> bool:
    files = [slot_path(out, domain, slot) for domain in DOMAINS]
    return all(path.exists() for path in [*files, truth_path(truth_dir(out), slot)])


def claim(out: Path, config: MarketConfig) -> None:
    """Say whose files these are.

    Raises:
        UserError: the folder holds another market, or cannot be written.
    """
    path = out / "market.json"
    mine = {"fingerprint": config.fingerprint, **config.model_dump(mode="json")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any((out / domain).exists() for domain in DOMAINS):
                raise UserError(f"{out} holds impressions without market.json: take another --out")
            _replace(path, json.dumps(mine, indent=2).encode())
            return
        theirs = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use {out} for Parquet files: {error}") from None
    if theirs.get("fingerprint") != mine["fingerprint"]:
        differ = [key for key in mine if key != "days" and theirs.get(key) != mine[key]]
        names = ", ".join(key for key in differ if key != "fingerprint") or "the generator"
        raise UserError(f"{out} holds another market ({names} differ): take another --out")


def write_slots(
    market: Market, out: Path, stopped: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, int, int]]:
    """Write the slots that are not complete yet; yields (slot, impressions, ads) after each.

    Slots are written behind the back of the generator of the next ones.

    Raises:
        UserError: as :func:`claim`, or a file cannot be written.
    """
    claim(out, market.config)
    missing = [s for s in range(market.slot_count) if not _complete(out, s)]
    if not missing:
        return
    wanted = set(missing)
    with ThreadPoolExecutor(1, thread_name_prefix="parquet") as pool:
        queue: list[Future[tuple[int, int, int]]] = []
        for slot in market.slots(missing[0], missing[-1] + 1):
            if stopped():
                break
            if slot.index in wanted:
                queue.append(pool.submit(write_slot, out, slot))
            while len(queue) > _QUEUED_SLOTS:
                yield _result(queue.pop(0))
        for future in queue:
            yield _result(future)


def _result(future: Future[tuple[int, int, int]]) -> tuple[int, int, int]:
    try:
        return future.result()
    except OSError as error:
        raise UserError(f"cannot write the market's files: {error}") from error


def write_slot(out: Path, slot: Slot) -> tuple[int, int, int]:
    """Write one slot's files; returns (slot, impressions, ads among them)."""
    write_truth(truth_dir(out), slot)
    for domain, rows in zip(DOMAINS, (slot.natural, slot.ad), strict=True):
        path = slot_path(out, domain, slot.index)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        pq.write_table(
            pa.Table.from_batches([rows]), partial, compression="lz4", use_dictionary=_DICTIONARY
        )
        os.replace(partial, path)
    return slot.index, len(slot.natural) + len(slot.ad), len(slot.ad)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
