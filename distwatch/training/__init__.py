"""Everything that needs TensorFlow. Empty, so that importing one room loads only that room."""
