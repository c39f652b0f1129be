"""Templates: the expressions of relay.yaml."""
