"""Feeds mutated files to the decoder, and mutated jobs to the parser, and keeps what they fail on."""
