"""What training and export need of the machine: scratch space, progress, quiet native libraries, TensorFlow."""
