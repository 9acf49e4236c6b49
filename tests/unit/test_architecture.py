"""The walls: the pure core knows no process, levels do not know each other."""

import ast
import importlib
from pathlib import Path

import pytest

from cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("streaming", "embeddings", "trainers", "monitoring")
SHELLS = {"kafka", "faust", "prometheus_client", "click", "rich"}

PURE = [
    "streaming/impressions.py",
    "streaming/codec.py",
    "streaming/control.py",
    "streaming/validation.py",
    "streaming/interleave.py",
    "streaming/predictions.py",
    "streaming/market.py",
    "monitoring/calibrated.py",
    "monitoring/columns.py",
    "monitoring/comparison.py",
    "monitoring/freshness.py",
    "monitoring/ledger.py",
    "monitoring/level_quality.py",
    "streaming/market_drift.py",
    "monitoring/drift/__init__.py",
    "monitoring/drift/asking.py",
    "monitoring/drift/detectors.py",
    "monitoring/drift/features.py",
    "monitoring/drift/seen.py",
    "monitoring/drift/settings.py",
    "monitoring/drift/signals.py",
    "monitoring/drift/sketches.py",
    "monitoring/drift/watch.py",
    "monitoring/drift_observer.py",
    "monitoring/metrics.py",
    "monitoring/monitor_checkpoint.py",
    "monitoring/monitor_page.py",
    "monitoring/monitor_settings.py",
    "monitoring/monitor_told.py",
    "monitoring/recalled.py",
    "monitoring/sampled_rows.py",
    "monitoring/series.py",
    "monitoring/svg.py",
    "monitoring/watermark.py",
    "monitoring/window.py",
    "trainers/checkpoint.py",
    "trainers/loop.py",
    "trainers/cadence.py",
    "trainers/early.py",
    "trainers/schedule.py",
    "trainers/seen.py",
    "trainers/entities.py",
    "trainers/snapshots.py",
    "trainers/boundaries.py",
    "trainers/held_back.py",
    "trainers/recall.py",
    "trainers/recall_file.py",
    "trainers/samples.py",
    "trainers/model.py",
    "trainers/features.py",
    "trainers/batch_norm.py",
    "trainers/history_attention.py",
    "trainers/history_inputs.py",
    "trainers/alignment.py",
    "trainers/learner.py",
    "trainers/replay/ads.py",
    "trainers/replay/figures.py",
    "trainers/replay/histories.py",
    "trainers/replay/level_run.py",
    "trainers/replay/log.py",
    "trainers/replay/run.py",
    "trainers/replay/stages.py",
    "trainers/replay/svg.py",
    "embeddings/tables.py",
    "embeddings/cpu_collision.py",
    "embeddings/vocabulary.py",
    "embeddings/refresh_shard.py",
    "embeddings/refresh_statistics.py",
    "embeddings/history.py",
    "embeddings/history_records.py",
    "embeddings/history_table.py",
    "embeddings/history_store.py",
]
LIGHT = ["streaming", "monitoring"]


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("name", PURE)
def test_the_pure_core_imports_no_shell(name):
    assert {module.split(".")[0] for module in imports(ROOT / name)} & SHELLS == set()


@pytest.mark.parametrize("package", LIGHT)
def test_light_packages_import_no_torch(package):
    for path in (ROOT / package).rglob("*.py"):
        heavy = {m.split(".")[0] for m in imports(path)} & {"torch", "torchrec", "fbgemm_gpu"}
        assert not heavy, path


def test_streaming_and_embeddings_know_nothing_of_trainers_and_monitoring():
    # A sub-command's module is the shell of a process, which shows itself to the monitor.
    shells = {ROOT / f"{name.replace('.', '/')}.py" for name, _ in COMMANDS.values()}
    for package in ("streaming", "embeddings"):
        for path in set((ROOT / package).rglob("*.py")) - shells:
            above = {m for m in imports(path) if m.split(".")[0] in ("trainers", "monitoring")}
            allowed = {"trainers.settings"}
            assert above <= allowed, (path, above)


def test_every_exported_name_exists():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            for node in tree.body:
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                    loaded = importlib.import_module(module)
                    assert all(hasattr(loaded, n) for n in ast.literal_eval(node.value)), path
