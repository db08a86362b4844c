"""The faults that ``make faults`` plants in what lies around the steps of a training."""

from fault import Fault

AGREEMENT = "training/test_agreement.py"
VALIDATIONS = "training/test_named_validations.py"
RATES = "training/test_learning_rate.py"
PROVENANCE = "training/test_provenance.py"
SHAPES = "training/test_loss_shapes.py"

WORKERS_AGREE = [
    Fault(
        "a worker does what was planned, but not decided",
        "training/agreement.py",
        'elif plan.said == "do":',
        'if plan.said in ("plan", "do"):',
        (f"{AGREEMENT}::test_where_one_does_not_watch_any_more_nobody_stops",),
    ),
    Fault(
        "one that follows stands for all workers",
        "training/agreement.py",
        "missing = [worker for worker in self._others if not self._follows(worker, plan)]",
        "missing = [] if any(self._follows(w, plan) for w in self._others) else [1]",
        (AGREEMENT,),
    ),
    Fault(
        "a worker that does not watch any more follows",
        "training/agreement.py",
        "        if goes_on:\n",
        "        if True:\n",
        (AGREEMENT,),
    ),
    Fault(
        "a worker leaves out what it agreed to once its watching has ended",
        "training/agreement.py",
        "        return now\n",
        "        return now if goes_on else []\n",
        (AGREEMENT,),
    ),
    Fault(
        "workers that ask for the same stop several times",
        "training/agreement.py",
        "elif each.stop is None or not self._stops:",
        "else:",
        (AGREEMENT,),
    ),
]

NAMED_SETS = [
    Fault(
        "the metrics of a named set are those of the usual validation",
        "training/validations.py",
        'f"{name}_{key}": value',
        'f"val_{key}": value',
        (VALIDATIONS,),
    ),
    Fault(
        "the batches of a named set are those of the usual validation",
        "training/watch.py",
        "if phase != TEST or self._announced:",
        "if True:",
        (VALIDATIONS,),
    ),
    Fault(
        "an evaluation without a name counts as the set around it",
        "training/validations.py",
        "taken = self._announced and self._now == name",
        "taken = self._now == name",
        (VALIDATIONS,),
    ),
    Fault(
        "an error while a validation set is prepared ends the training",
        "training/validations.py",
        "        except Exception as error:\n            self._session.fail(error)",
        "        except Exception:\n            raise",
        (VALIDATIONS,),
    ),
    Fault(
        "metrics of a named set replace those of the fit",
        "training/validations.py",
        "{**self._metrics, **logs}",
        "{**logs, **self._metrics}",
        (VALIDATIONS,),
    ),
]

SHAPES_OF_LOSSES = [
    Fault(
        "a loss that compares all pairs on purpose is told",
        "training/taps/loss_shapes.py",
        "return {origins[x.ref()] for x in operation.inputs} == {TARGETS, SAID}",
        "return True",
        (SHAPES,),
    ),
    Fault(
        "a loss that compares all pairs by mistake is not told",
        "training/taps/loss_shapes.py",
        "if (low.rank, high.rank) != (1, 2) or",
        "if (low.rank, high.rank) != (2, 2) or",
        (SHAPES,),
    ),
]

LEARNING_RATES = [
    Fault(
        "a function that gives the learning rate is called within a loss scale",
        "training/taps/learning_rates.py",
        "    optimizer = innermost(optimizer)\n",
        "",
        (RATES,),
    ),
    Fault(
        "a function that gives the learning rate is called once more",
        "training/taps/learning_rates.py",
        '(callable(kept) and not type(kept).__module__.startswith("keras."))',
        "False",
        (RATES,),
    ),
]

SECRETS = [
    Fault(
        "the value after a secret option is recorded",
        "training/provenance.py",
        "yield HIDDEN if _is_secret(follows, each) else each",
        "yield each",
        (PROVENANCE,),
    ),
    Fault(
        "the password in an address is recorded",
        "training/provenance.py",
        "argument = _USER.sub(HIDDEN, argument)",
        "pass",
        (PROVENANCE,),
    ),
    Fault(
        "what looks like a key is recorded",
        "training/provenance.py",
        "return _KEY.sub(HIDDEN, inside)",
        "return inside",
        (PROVENANCE,),
    ),
    Fault(
        "a password of digits is recorded",
        "training/provenance.py",
        "if one in _AMBIGUOUS and _PLAIN.fullmatch(value):",
        "if _PLAIN.fullmatch(value):",
        (PROVENANCE,),
    ),
    Fault(
        "a command line is recorded although that was turned off",
        "training/provenance.py",
        "if not wanted(os.environ):",
        "if False:",
        (PROVENANCE,),
    ),
]

AROUND_TRAINING = [
    *WORKERS_AGREE,
    *NAMED_SETS,
    *SHAPES_OF_LOSSES,
    *LEARNING_RATES,
    *SECRETS,
]
