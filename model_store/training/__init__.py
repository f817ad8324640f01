"""Training: from labelled images and a backbone to a head, and where it pays to tuned layers below it."""
