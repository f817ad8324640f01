"""The history of a run: what was tried, what came back, and whether every promise was kept."""
