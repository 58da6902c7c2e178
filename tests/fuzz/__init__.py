"""Files as somebody hostile would write them, and what must hold when they are read.

* :mod:`fuzz.spelling`: JSON and YAML trees, valid at first, changed at random places into what no program writes
* :mod:`fuzz.formats`: one generator for each format: a random source → the bytes of a nearly valid file
* :mod:`fuzz.resumed`: what an interrupted run left, as a generator and a target
* :mod:`fuzz.targets`: one target for each format: bytes → None, through the door that the program itself uses
* :mod:`fuzz.guards`: what must hold of every case: no code run, no file outside touched, no error but our own, no hang
* ``python -m fuzz``: a million cases; with ``--engine atheris`` guided by coverage
"""
