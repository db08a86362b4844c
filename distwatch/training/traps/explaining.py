"""What errors of TensorFlow mean that cannot be refused beforehand."""

from __future__ import annotations

import keras
import tensorflow as tf

from distwatch.training.strategies import facts_of


def explain(model: keras.Model, error: BaseException, *, begun: bool = True) -> None:
    """Add to an error what its words do not say, where that is known.

    - The size of a dataset's first batch is not known before it is drawn.
    - Which keys other strategies of the process have used, watched or not, is not known.

    Args:
        model: what was trained.
        error: what ended it.
        begun: whether a first batch was drawn.
    """
    facts = facts_of(model.distribute_strategy)
    if len(facts.devices) < 2 or not isinstance(error, tf.errors.InvalidArgumentError):
        return
    if not begun and "must have the same size and shape" in str(error):
        error.add_note(_FIRST_BATCH.format(len(facts.devices)))
    if "Shape mismatch in the collective instance" in str(error) and facts.workers == 1:
        error.add_note(_SAME_KEYS)


_FIRST_BATCH = (
    "distwatch: Keras cannot spread a first batch over {0} replicas that {0} does not divide; "
    "use another batch size."
)

_SAME_KEYS = (
    "distwatch: this is so where another MirroredStrategy over the same devices trained a "
    "model of another shape in this process: TensorFlow numbers the reductions of both from "
    "the same number on. Start the process anew, and make one strategy for all models in it, "
    "or each with cross_device_ops=tf.distribute.ReductionToOneDevice()."
)
