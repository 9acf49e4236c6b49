"""Metrics of quality and health, their exporter, and the live view."""
