"""The command that this distribution adds. Read for every ``daremerge --help``, so nothing is imported here."""

COMMANDS = {
    "lora": ("daremerge_lora.cli:lora_command", "LoRAs: look into, apply, merge, resize, extract, convert."),
}
"""Command → (module:attribute, one-line help)."""
