"""Showing that a network computes what Caffe computed: recordings, comparison, causes, report."""
