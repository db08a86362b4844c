"""What this machine can do, and what to fix: ``distwatch doctor``.

``command`` prints the findings of ``checks``: ``software`` looks at what is installed,
``trainings`` has a ``child`` process train and watch a tiny model, so that a crash of
TensorFlow is a finding like any other, ``targets`` writes a made-up run to the place where
runs will be written. This process loads neither TensorFlow nor Keras.
"""

from distwatch.cli.doctor.command import doctor

__all__ = ["doctor"]
