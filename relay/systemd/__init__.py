"""systemd: what it hands to the service and wants to be told."""
