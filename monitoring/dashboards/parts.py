"""What the dashboards share: queries, panels, thresholds, marks and links.

A screen is 24 columns wide. Panels flow from left to right, so that a dashboard's module gives
each a width and a height and says nothing of places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import bargauge, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    VizLegendOptions,
)
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = model.DataSourceRef(type_val="prometheus", uid="prometheus")
GREEN, ORANGE, RED = "green", "orange", "red"
RUNBOOK_UID = "ecdctr-runbook"
_NO_GRAPH, _GRAPH = common.BigValueGraphMode.NONE, common.BigValueGraphMode.AREA

Step = tuple[float | None, str]
"""A color from a value on; None: from the least on."""


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str = ""
    instant: bool = False

    def built(self, name: str) -> prometheus.Dataquery:
        query = prometheus.Dataquery().expr(self.expression).ref_id(name).datasource(SOURCE)
        query.legend_format(self.legend or "__auto")
        return query.instant() if self.instant else query.range()


@dataclass(frozen=True)
class Look:
    """How a panel's values are to be read."""

    unit: str
    decimals: int | None = None
    steps: tuple[Step, ...] = ((None, GREEN),)
    low: float | None = None
    high: float | None = None
    zero: str = ""
    """What is shown in place of a 0."""


def answer(
    title: str, query: Query, look: Look, help: str, width: int = 6, named: bool = False
) -> Any:
    """One number, coloured by what it means; `named`: beside the labels that it belongs to."""
    panel = stat.Panel().color_mode(common.BigValueColorMode.BACKGROUND)
    panel.graph_mode(_NO_GRAPH if query.instant else _GRAPH)
    panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    mode = common.BigValueTextMode.VALUE_AND_NAME if named else common.BigValueTextMode.VALUE
    panel.text_mode(mode)
    return _finished(panel, title, [query], look, help, width, 5)


def lines(
    title: str, queries: list[Query], look: Look, help: str, width: int = 8, height: int = 6
) -> Any:
    """Curves over time; thresholds are drawn where there is more than one colour."""
    panel = timeseries.Panel().line_width(1).fill_opacity(0)
    panel.legend(
        VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    if len(look.steps) > 1:
        style = GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(style)
    return _finished(panel, title, queries, look, help, width, height)


def bars(title: str, query: Query, look: Look, help: str, width: int = 8, height: int = 6) -> Any:
    """One bar a series, of now."""
    panel = bargauge.Panel().orientation(common.VizOrientation.HORIZONTAL)
    panel.display_mode(common.BarGaugeDisplayMode.BASIC)
    panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    return _finished(panel, title, [query], look, help, width, height)


def rows(
    title: str,
    columns: dict[str, Query],
    by: str,
    look: Look,
    help: str,
    width: int,
    height: int,
    plain: dict[str, str],
) -> Any:
    """A table of now: a row for each value of the label `by`, a column for each query.

    The look is that of the first column, whose numbers take the colours, and of all others but
    those that `plain` names with their units.
    """
    panel = table.Panel()
    coloured = model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"})
    panel.override_by_name(next(iter(columns)), [coloured])
    for name, unit in plain.items():
        whole = [model.DynamicConfigValue("unit", unit), model.DynamicConfigValue("decimals", 0)]
        panel.override_by_name(name, whole)
    for index, query in enumerate(columns.values()):
        built = query.built(chr(ord("A") + index)).instant().format(PromQueryFormat.TABLE)
        panel.with_target(built)
    _transform(panel, "joinByField", {"byField": by})
    _transform(panel, "filterFieldsByName", {"include": {"pattern": f"^({by}|Value.*)$"}})
    renamed = {f"Value #{chr(ord('A') + i)}": name for i, name in enumerate(columns)}
    _transform(panel, "organize", {"renameByName": renamed})
    return _finished(panel, title, [], look, help, width, height)


def _transform(panel: Any, name: str, options: dict[str, Any]) -> None:
    panel.with_transformation(model.DataTransformerConfig(id_val=name, options=options))


def _finished(
    panel: Any, title: str, queries: list[Query], look: Look, help: str, width: int, height: int
) -> Any:
    for index, query in enumerate(queries):
        panel.with_target(query.built(chr(ord("A") + index)))
    panel.title(title).description(help).datasource(SOURCE).span(width).height(height)
    panel.unit(look.unit).thresholds(_thresholds(look.steps))
    if look.decimals is not None:
        panel.decimals(look.decimals)
    if look.low is not None:
        panel.min(look.low)
    if look.high is not None:
        panel.max(look.high)
    if look.zero:
        shown = model.ValueMappingResult(text=look.zero)
        panel.mappings([model.ValueMap(options={"0": shown})])
    return panel


def _thresholds(steps: tuple[Step, ...]) -> Any:
    made = [model.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def screen(uid: str, title: str, help: str, span: str, panels: list[Any]) -> dashboard.Dashboard:
    """A dashboard with the marks and links that all have."""
    made = dashboard.Dashboard(title).uid(uid).description(help).tags(["ecdctr"])
    made.readonly().refresh("30s").time(f"now-{span}", "now").timezone("utc")
    made.tooltip(model.DashboardCursorSync.CROSSHAIR)
    handed_down = 'changes(ecdctr_hand_down_event_time_seconds{level="actr"}[1m])'
    made.annotation(_mark("Hand-downs", "blue", handed_down))
    drifted = "sum by (domain, signal) (increase(ecdctr_drift_alarms_total[1m]))"
    made.annotation(_mark("Drift alarms", ORANGE, drifted))
    made.annotation(_mark("Alerts", RED, 'ALERTS{alertstate="firing"}'))
    made.link(_link("Runbook", f"/d/{RUNBOOK_UID}"))
    others = dashboard.DashboardLink("Dashboards").type(model.DashboardLinkType.DASHBOARDS)
    made.link(others.tags(["ecdctr"]).as_dropdown(True).keep_time(True))
    for panel in panels:
        made.with_panel(panel)
    return made


def _mark(name: str, color: str, expression: str) -> dashboard.AnnotationQuery:
    mark = dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True)
    return mark.icon_color(color).expr(f"{expression} > 0")


def _link(title: str, url: str) -> dashboard.DashboardLink:
    link = dashboard.DashboardLink(title).type(model.DashboardLinkType.LINK).icon("doc")
    return link.url(url).target_blank(True)


def level_variable(default: str = "actr") -> dashboard.QueryVariable:
    """Which level a dashboard is about."""
    option = model.VariableOption(text=default, value=default)
    variable = dashboard.QueryVariable("level").label("Level").datasource(SOURCE).current(option)
    variable.query("label_values(ecdctr_monitor_event_time_seconds, level)")
    return variable.refresh(model.VariableRefresh.ON_DASHBOARD_LOAD)
