"""Publishing: from a dataset, or from a ready-made classifier, to a published version."""
