"""One file a campaign: what is done to the plant while it sorts."""
