"""Reading pictures and score maps; VOC's facts, palettes, label pictures, overlays, figures."""
