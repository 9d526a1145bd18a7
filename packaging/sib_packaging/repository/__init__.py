"""Makes a signed apt and dnf repository of packages, in one folder."""
