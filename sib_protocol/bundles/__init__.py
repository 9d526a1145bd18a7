"""What both sides agree on about bundles: names of targets, and the archive's form."""
