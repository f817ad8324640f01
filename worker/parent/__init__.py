"""The parent of a worker: a small process that starts the worker proper, and starts another one when it crashes.

The lowest layer of the worker. All of it but the worker's own end (`handover`) runs in the parent, which holds nothing
but the standard library.
"""
