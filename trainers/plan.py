"""`ecdctr plan`: which table goes where, and the memory it takes; no GPU is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import psutil

from config import Config, configured
from settings import Loaded

if TYPE_CHECKING:
    from trainers.planning import Plan

GIB = 1024**3
GPUS_A_HOST = 8


@click.command("plan")
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    default="cuda",
    show_default=True,
    help="What ranks run on.",
)
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="GPUs in all.")
@click.option(
    "--gpu-memory-gib", type=click.FloatRange(1), default=80.0, show_default=True, help="Of each."
)
@click.option(
    "--host-memory-gib", type=click.FloatRange(1), help="Of each host; default: this machine's."
)
@click.option("--ranks", type=click.IntRange(1), default=1, help="Processes, with --device cpu.")
@configured
def command(
    loaded: Loaded[Config],
    device: str,
    gpus: int,
    gpu_memory_gib: float,
    host_memory_gib: float | None,
    ranks: int,
) -> None:
    """Print where TorchRec's planner puts every table of A-CTR, and the memory it takes."""
    # TorchRec takes seconds to import: only now, when all else was found in order.
    from trainers.distributed import hush
    from trainers.levels import level
    from trainers.planning import Machine, plan_tables

    hush()
    host = psutil.virtual_memory().total if host_memory_gib is None else host_memory_gib * GIB
    count = gpus if device == "cuda" else ranks
    machine = Machine(
        device=device,
        ranks=count,
        ranks_a_host=min(count, GPUS_A_HOST) if device == "cuda" else count,
        device_bytes=int(gpu_memory_gib * GIB) if device == "cuda" else 0,
        host_bytes=int(host),
    )
    actr = level("actr", loaded.config)
    for line in describe(plan_tables(actr.config, actr.schema, machine)):
        click.echo(line)


def describe(plan: Plan) -> list[str]:
    """The plan as a table for a terminal, one line a table, then the memory of the ranks."""
    header = ("table", "rows", "dim", "sharding", "kernel", "ranks", "device a rank", "host a rank")
    rows = [header]
    for table in plan.tables:
        ranks = sorted(table.device_bytes)
        rows.append(
            (
                table.name,
                f"{table.rows:,}",
                str(table.dim),
                table.sharding,
                table.kernel,
                _ranks(ranks),
                _size(max(table.device_bytes.values())),
                _size(max(table.host_bytes.values())) if any(table.host_bytes.values()) else "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return lines + _totals(plan)


def _totals(plan: Plan) -> list[str]:
    machine = plan.machine
    fullest = max(range(machine.ranks), key=plan.bytes_of)
    near, far = plan.bytes_of(fullest)
    if machine.device == "cpu":
        text = f"{_size(near)} of {_size(machine.host_bytes_a_rank)}"
    else:
        text = f"{_size(near)} of {_size(machine.device_bytes)} on the GPU"
        if far:
            text += f", {_size(far)} of {_size(machine.host_bytes_a_rank)} in host memory"
    return [f"rank {fullest}, the fullest of {machine.ranks}: {text}"]


def _ranks(ranks: list[int]) -> str:
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}-{ranks[-1]}"
    return ",".join(map(str, ranks))


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 1024**2:.1f} MiB"
