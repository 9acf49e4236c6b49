"""What the topics take on disk and on the wire, computed from records as they are really written.

Impressions of the market `large` in records of 256 and their predictions, each compressed by lz4
as our producers do, give bytes an impression; the rest is arithmetic for 10 k, 100 k and 1 M
impressions a second. Nothing here is timed.
"""

from __future__ import annotations

import lz4.frame
import numpy as np
import pyarrow as pa

from benchmarks.report import publish
from streaming.codec import encode
from streaming.impressions import Batch, ImpressionSchema, Position, SourceRows
from streaming.market import Market
from streaming.market_config import MarketConfig
from streaming.partitioning import MAX_RECORD_ROWS
from streaming.predictions import encode_predictions

RATES = (10_000, 100_000, 1_000_000)  # impressions a second, natural and ads together
DAY = 86_400
PREDICTED = 4_096  # impressions in a record of predictions
MARKET = MarketConfig(preset="large", users=100_000, items=50_000, advertised=5_000)


def main() -> None:
    rows = next(iter(Market(MARKET).slots())).natural.slice(0, 40 * PREDICTED)
    impression = _compressed(encode(part) for part in _parts(rows, MAX_RECORD_ROWS))
    prediction = _compressed(_predictions(part) for part in _parts(rows, PREDICTED))
    impression, prediction = impression / len(rows), prediction / len(rows)
    figures = {
        "an impression, bytes on disk": f"{impression:.0f}",
        "its prediction, bytes on disk": f"{prediction:.0f}",
    }
    for rate in RATES:
        written = rate * (impression + prediction)
        figures[f"{rate:,} a second: written, MB a second, one replica"] = f"{written / 1e6:.1f}"
        figures[f"{rate:,} a second: kept for 14 days by 3 replicas, TB"] = (
            f"{written * 14 * DAY * 3 / 1e12:.1f}"
        )
    publish("topic_sizes", figures)


def _parts(rows: pa.RecordBatch, size: int) -> list[pa.RecordBatch]:
    return [rows.slice(first, size) for first in range(0, len(rows), size)]


def _compressed(values) -> int:
    return sum(len(lz4.frame.compress(value)) for value in values)


def _predictions(rows: pa.RecordBatch) -> bytes:
    count = len(rows)
    generator = np.random.default_rng(0)
    source = SourceRows(
        np.zeros(count, np.int32),
        np.repeat(np.arange(-(-count // MAX_RECORD_ROWS)), MAX_RECORD_ROWS)[:count],
        (np.arange(count) % MAX_RECORD_ROWS).astype(np.int32),
    )
    batch = Batch(rows, source, {0: Position(1)}, 0)
    records = encode_predictions(
        batch,
        generator.random(count, np.float32),
        1,
        "impressions.ad",
        schema=ImpressionSchema(),
        level="actr",
    )
    return records[0][1]


if __name__ == "__main__":
    main()
