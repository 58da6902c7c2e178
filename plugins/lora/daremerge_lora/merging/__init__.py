"""Merging the changes of several LoRAs: sums, and what thins them and settles their quarrels."""
