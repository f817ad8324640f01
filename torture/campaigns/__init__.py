"""One file per campaign: what it does to the plant while images are sorted."""
