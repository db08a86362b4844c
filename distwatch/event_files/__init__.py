"""TensorBoard's event files: blocks in, files out, the same live and afterwards.

``options`` says what of a run is written, ``folders`` where, ``summaries`` turns blocks into
what TensorBoard calls summaries, ``writer`` puts them into files, ``live`` does so during a
training. Only ``summaries`` and ``writer`` import TensorBoard, which need not be installed;
it brings its own description of the format, so TensorFlow is never imported.
"""
