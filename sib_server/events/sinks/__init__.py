"""Where the journal delivers: Loki and Falcosidekick, and the loop that feeds them."""
