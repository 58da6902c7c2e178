"""daremerge: merge model checkpoints."""
