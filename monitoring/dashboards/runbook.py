"""docs/runbook.md as a dashboard, so that links lead to it wherever Grafana runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard, text
from grafana_foundation_sdk.models.text import TextMode

from monitoring.dashboards.parts import RUNBOOK_UID

FILE = Path(__file__).resolve().parents[2] / "docs" / "runbook.md"


def build() -> Any:
    made = dashboard.Dashboard("Runbook").uid(RUNBOOK_UID).tags(["ecdctr"]).readonly()
    made.description("What each alert means, where to look first, what to do.")
    for title, body in sections():
        panel = text.Panel().title(title).mode(TextMode.MARKDOWN).content(body)
        made.with_panel(panel.span(12).height(10))
    return made


def sections() -> list[tuple[str, str]]:
    """Title and text of each section; links inside the file become plain words."""
    parts = re.split(r"^## (.+)$", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [(title, re.sub(r"\[(\w+)\]\(#\w+\)", r"\1", body).strip()) for title, body in pairs]
