"""A real ComfyUI, and what drives it: server, test models, client, workflows, browser."""
