"""Readers of the lines' result streams, for the ejector's side, `sortline results` and the demo."""
