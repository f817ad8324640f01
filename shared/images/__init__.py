"""Images: the accepted formats, the limits on size and cost, and the decoder."""
