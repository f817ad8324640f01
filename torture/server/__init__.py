"""The server under torture: killed, paused, starved, cut off."""
