"""Training as Caffe did it."""
