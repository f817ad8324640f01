"""Training: from labeled images and a backbone to a head, and to fine-tuned layers where that helps."""
