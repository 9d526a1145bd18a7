"""The disk guard: journal, Loki and Prometheus share what room there is; the oldest goes first."""
