"""Grafana's dashboards as code; `make dashboards` writes their JSON to `json/`."""
