"""The routes by which agents push logs and metrics to the stores on loopback."""
