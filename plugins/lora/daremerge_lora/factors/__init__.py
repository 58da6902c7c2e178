"""A change as a product of two thin matrices: singular values, ranks, and what is lost."""
