"""Layer gradients: how strongly each block, layer or depth of a model is merged."""
