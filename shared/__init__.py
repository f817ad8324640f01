"""What all parts of Sortline share: settings, errors, schemas, Redis keys, image decoding, connections to the server.

Also processes that end with their caller, the server of probes and metrics, the log's format, and the command line.

Imports no other package of the project. Every other package may import it.
"""
