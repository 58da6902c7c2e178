"""Reports: what a model, a mask, a gradient or a merge is like, in words, numbers and pictures."""
