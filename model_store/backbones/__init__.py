"""Backbones: pretrained feature extractors, named by handles, fetched once and checked."""
