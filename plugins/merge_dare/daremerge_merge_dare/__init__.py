"""DARE: Drop And REscale, for two models with or without their base."""
