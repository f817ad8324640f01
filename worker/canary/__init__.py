"""A new version tried beside the one in service: compared, counted, ended."""
