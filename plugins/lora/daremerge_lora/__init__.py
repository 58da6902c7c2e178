"""LoRA tools: look into, apply, merge, resize, extract and convert LoRAs of every common format."""
