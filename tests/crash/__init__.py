"""Merges that are killed: real processes of the real command line, at every step and at any moment.

* :mod:`crash.victims`: a process that forks merges, and kills them at a step, or lets them be slow
* :mod:`crash.scene`: a folder in which they are killed, and what must be true of it afterwards
* ``python -m crash``: every step, and as many random moments as one likes
"""
