"""daremerge on the ComfyUI canvas.

No maths lives here. A node's inputs become a step of a recipe graph (:mod:`graph`) over the models of the canvas
(:mod:`weights`); the core plans and computes it (:mod:`running`), and what changed is attached to a clone as one patch
(:mod:`attach`). Nodes are data (:mod:`node`): made from the catalog (:mod:`generated`), or rows of the old pack's table
(:mod:`legacy`).
"""
