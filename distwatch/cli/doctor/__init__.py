"""What this machine can do, and what to fix: ``distwatch doctor``.

``command`` prints what ``checks`` find: ``software`` looks at what is installed, ``trainings``
has a ``child`` process train and watch a tiny model, so that a crash of TensorFlow is a finding
like any other, ``targets`` writes a made-up run where runs are to lie. Loads neither TensorFlow
nor Keras into this process.
"""

from distwatch.cli.doctor.command import doctor

__all__ = ["doctor"]
