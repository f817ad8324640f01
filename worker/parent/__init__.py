"""The parent of a worker: a small process that starts the worker proper, and starts another one when it crashes.

The lowest layer of the worker. All of it except the worker's end of the lifeline (`handover`) runs in the parent, which
imports only the standard library.
"""
