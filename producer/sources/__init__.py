"""Where a camera's frames come from: a folder, or the simulator."""
