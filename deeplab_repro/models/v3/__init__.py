"""DeepLab v3 (arXiv 1706.05587) and v3+ (1802.02611) as the original TensorFlow program has them.

File by file::

    options     everything that decides a network, under the original's names
    parts       convolution units, paddings, resizes and normalizations as TensorFlow computes them
    backbone    units one after the other, and the maps that a decoder reads
    resnet, xception, mobilenet    the backbones
    aspp, dense_prediction_cell    what looks at the backbone's map with several fields of view
    decoder     back to finer maps
    network     the whole, and how it predicts
    variables   TensorFlow's names for the weights, and their layout
    catalogue   the published networks by name
"""
