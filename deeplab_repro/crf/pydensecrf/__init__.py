"""Drop-in for the package ``pydensecrf``: change the import, and nothing else.

>>> import deeplab_repro.crf.pydensecrf.densecrf as dcrf
>>> from deeplab_repro.crf.pydensecrf import eigen, utils
"""
