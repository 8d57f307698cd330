"""Widgets: one idea each, at most three controls, alive in JupyterLab and in the static book."""
