"""``sib-agent doctor``: whether an event of this host really comes home, and if not, why."""
