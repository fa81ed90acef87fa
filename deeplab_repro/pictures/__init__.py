"""Reading pictures as network inputs; palettes, label pictures and overlays."""
