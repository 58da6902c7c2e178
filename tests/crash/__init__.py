"""Merges that are killed: real processes of the real command line, at every step and at any moment.

* :mod:`crash.victims`: a process that forks merges, and kills them at a step, or lets them be slow
* :mod:`crash.scene`: a folder in which they are killed, and what must be true of it afterwards
* :mod:`crash.caged`: a process in little memory
* :mod:`crash.large`: whole checkpoints merged in less memory than one of them takes
* ``python -m crash``: every step, as many random moments as one likes, and the large merges
"""
