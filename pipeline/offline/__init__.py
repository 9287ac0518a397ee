"""Segmenting files: pictures and clips in, masks, overlays and a results file out."""
