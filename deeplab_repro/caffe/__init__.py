"""Caffe networks as PyTorch modules: layers, the net, fusing, export, costs and drawings."""
