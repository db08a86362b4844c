"""Running scripts that know nothing of distwatch, with what they do watched.

``launching`` checks what can be checked and becomes the script's process. What goes with it
is ``bootstrap/sitecustomize.py``, which Python imports when it starts, and which waits for
the script to import Keras; then ``watched_fits`` gives each ``fit`` a Watch, ``unobtrusive``
one that neither refuses nor prints.
"""
