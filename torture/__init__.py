"""`sortline torture`: kills, stops and floods a plant while it sorts images, and checks what became of each image.

Imported by `sortline.cli` alone. It starts real workers, producers and servers, each as a process.
"""
