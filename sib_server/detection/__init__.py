"""What the fleet looks for: rules, Sigma conversion, indicators, bundles."""
