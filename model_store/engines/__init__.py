"""Engines run a bundle: LiteRT on CPUs, TensorFlow on GPUs and CPUs, behind one small protocol."""
