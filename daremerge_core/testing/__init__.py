"""What tests of daremerge and of its plugins are made with."""
