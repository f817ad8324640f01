"""Reports for people: a page, plots and TensorBoard logs of a training or a comparison."""
