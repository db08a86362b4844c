"""The folder that stands in front of PYTHONPATH while a script's Python starts."""
