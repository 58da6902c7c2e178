"""How hypothesis runs in every test of this checkout: never against the clock, and the same cases each time in CI."""

import os

from hypothesis import settings

settings.register_profile("daremerge", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("daremerge")
