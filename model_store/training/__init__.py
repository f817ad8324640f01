"""Training: from labelled images and a backbone to a head, and to fine-tuned layers where that helps."""
