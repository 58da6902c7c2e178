"""What can be done with LoRAs, as components: apply, merge, resize, extract, convert."""
