"""Masks: which elements of a model's tensors a merge or an edit may change."""
