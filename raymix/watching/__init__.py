"""Watching a sweep with tools that are not raymix's: Prometheus and Grafana."""
