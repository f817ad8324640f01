"""`sortline bench`: measures what the queue costs on the machine that it runs on.

The contenders of a comparison take turns within one run, each in processes of its own. On a shared machine only the
ratios are meaningful. Images come from the real producer, run as a process (`sortline camera`).

`bench.rendering` measures nothing: it renders datasets that show whether a model knows more than one belt.
"""
