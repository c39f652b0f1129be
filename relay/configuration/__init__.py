"""The former name of `relay.config`, kept for relays that run the release before."""
