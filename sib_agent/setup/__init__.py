"""``sib-agent setup``: the configuration of Falco and Alloy on this host, from the settings."""
