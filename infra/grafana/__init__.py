"""A board for Grafana that shows the runs of a cluster."""
