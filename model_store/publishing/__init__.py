"""From a dataset, or another project's classifier, to a published version."""
