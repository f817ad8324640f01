"""Images: the accepted formats, the limits on size and cost, the regions that are cropped, and the decoder."""
