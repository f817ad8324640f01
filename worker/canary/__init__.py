"""A new version that is tried beside the stable model: compared, counted, and ended if it disagrees too often."""
