"""`python -m monitoring.dashboards`: write every dashboard's JSON."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from monitoring.dashboards import drift_and_forgetting, model_quality, pipeline_health, runbook

FOLDER = Path(__file__).parent / "json"
DASHBOARDS = {
    "model_quality": model_quality,
    "drift_and_forgetting": drift_and_forgetting,
    "pipeline_health": pipeline_health,
    "runbook": runbook,
}


def rendered(name: str) -> str:
    """The JSON of one dashboard."""
    built = DASHBOARDS[name].build().build()
    return JSONEncoder(sort_keys=True, indent=2).encode(built) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    main()
