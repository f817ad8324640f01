"""What a model is worth: its answers on labelled images, scored and compared."""
